local LOCK = 'RTL\1'
local NO_TOKEN = string.rep('\0', 16)
local WAITERS_AT = 49

-- Whether what stands under a lock's name is a lock.
local function is_lock(value)
  return type(value) == 'string' and #value >= 48 and value:sub(1, 4) == LOCK
end

local function token_of(lock) return lock:sub(5, 20) end
local function lock_floor_of(lock) return lock:sub(21, 48) end

local function next_inbox(lock, at)
  if at > #lock then return nil end
  local length = lock:byte(at)
  return lock:sub(at + 1, at + length), at + 1 + length
end

-- Publishes a notice to every waiter of a lock, with the token that they wait for. A channel that may not be used costs a waiter time, never the call.
local function tell(lock, kind, key, rest)
  if #lock < WAITERS_AT then return end
  local message = kind .. token_of(lock) .. struct.pack('>I2', #key) .. key .. rest
  local inbox, at = next_inbox(lock, WAITERS_AT)
  while inbox do
    redis.pcall('PUBLISH', inbox, message)
    inbox, at = next_inbox(lock, at)
  end
end
