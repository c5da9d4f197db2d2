-- KEYS: entry, lock. ARGV: token, time to live in ms, inbox or '', time before which a soft expiry is stale in ms.
local token, ttl, inbox = ARGV[1], ARGV[2], ARGV[3]
local entry = redis.pcall('GET', KEYS[1])
local state = state_of_value(entry)
local floor, stale = NONE, false

if state then
  if state == VALUE or state == NEGATIVE then
    local high, low = struct.unpack('>I4I4', entry, 65)
    local soft = high * 4294967296 + low
    if soft == 0 or soft > tonumber(ARGV[4]) then return {'H', entry} end
  end
  floor = max(floor_of(entry), version_of(entry))
  if state ~= TOMBSTONE then stale = entry end
end

if redis.call('SET', KEYS[2], LOCK .. token .. floor, 'NX', 'PX', ttl) then
  return {'G', floor, stale}
end

local lock = redis.pcall('GET', KEYS[2])
local remaining = redis.call('PTTL', KEYS[2])
if remaining < 0 then remaining = tonumber(ttl) end
if not is_lock(lock) then return {'W', remaining, 0, NO_TOKEN, stale} end

if token_of(lock) == token then
  redis.call('PEXPIRE', KEYS[2], ttl)
  return {'G', lock_floor_of(lock), stale}
end

local registered = 0
if inbox ~= '' then
  local other, at = next_inbox(lock, WAITERS_AT)
  while other and other ~= inbox do
    other, at = next_inbox(lock, at)
  end
  if other then
    registered = 1
  elseif #lock - 48 + 1 + #inbox <= 65536 then
    local grown = redis.pcall('APPEND', KEYS[2], string.char(#inbox) .. inbox)
    if type(grown) == 'number' then registered = 1 end
  end
end
return {'W', remaining, registered, token_of(lock), stale}
