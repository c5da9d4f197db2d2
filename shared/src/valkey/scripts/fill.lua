-- KEYS: entry, lock. ARGV: token, version, proven floor, time to live in ms, entry, longest entry in a notice.
local version = ARGV[2]
local lock = redis.pcall('GET', KEYS[2])
if not is_lock(lock) or token_of(lock) ~= ARGV[1] then return {'V'} end

local there = redis.pcall('GET', KEYS[1])
local state = state_of_value(there)
local floor = lock_floor_of(lock)
if state then floor = max(floor, floor_of(there)) end
if higher(floor, max(version, ARGV[3])) then return {'B', floor} end

local answer, entry = 'O', there
local fresh = state == VALUE or state == NEGATIVE
if not (fresh and version ~= NONE and higher(version_of(there), version)) then
  answer, entry = 'S', ARGV[5]:sub(1, 36) .. floor .. ARGV[5]:sub(65)
  redis.call('SET', KEYS[1], entry, 'PX', ARGV[4])
end
redis.call('UNLINK', KEYS[2])
tell(lock, 'F', KEYS[1], #entry <= tonumber(ARGV[6]) and entry or '')
return {answer}
