-- KEYS: entry, lock. ARGV: token, kind of notice, reason.
local lock = redis.pcall('GET', KEYS[2])
if not is_lock(lock) or token_of(lock) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
tell(lock, ARGV[2], KEYS[1], ARGV[3])
return 1
