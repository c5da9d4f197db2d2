local NONE = string.rep('\0', 28)

-- Whether one version is higher than another. String comparison would follow the server's locale.
local function higher(a, b)
  if a == b or a == NONE then return false end
  if b == NONE then return true end
  local a1, a2, a3, a4, a5, a6, a7 = struct.unpack('>I4I4I4I4I4I4I4', a)
  local b1, b2, b3, b4, b5, b6, b7 = struct.unpack('>I4I4I4I4I4I4I4', b)
  if a1 ~= b1 then return a1 > b1 end
  if a2 ~= b2 then return a2 > b2 end
  if a3 ~= b3 then return a3 > b3 end
  if a4 ~= b4 then return a4 > b4 end
  if a5 ~= b5 then return a5 > b5 end
  if a6 ~= b6 then return a6 > b6 end
  return a7 > b7
end

local function max(a, b)
  if higher(a, b) then return a end
  return b
end
