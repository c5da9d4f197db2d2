local TOMBSTONE, VALUE, NEGATIVE, STALE = 0, 1, 2, 3

-- Whether an entry that begins with `head` has the length that its header says.
local function is_whole(head, length)
  return struct.unpack('>I4', head, 77) == length - 80
end

-- The state of an entry that begins with `head`; nil for what this release does not know.
local function state_of(head)
  if #head < 80 or head:sub(1, 5) ~= '\158RT\26\1' then return nil end
  local state, codec = head:byte(6, 7)
  if state > STALE or codec % 16 > 2 or codec > 31 then return nil end
  return state
end

-- The state of a whole entry; nil for what is none.
local function state_of_value(value)
  if type(value) ~= 'string' then return nil end
  local state = state_of(value)
  return state and is_whole(value, #value) and state or nil
end

local function version_of(head) return head:sub(9, 36) end
local function floor_of(head) return head:sub(37, 64) end
