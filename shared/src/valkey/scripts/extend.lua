-- KEYS: entry, lock. ARGV: token, time to live in ms.
local lock = redis.pcall('GET', KEYS[2])
if not is_lock(lock) or token_of(lock) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[2], ARGV[2])
