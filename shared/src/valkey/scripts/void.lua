-- KEYS: lock. ARGV: the entry's name. Takes the lease away by itself, where entry and lock cannot be named together.
local lock = redis.pcall('GET', KEYS[1])
if not lock then return 0 end
redis.call('UNLINK', KEYS[1])
if is_lock(lock) then tell(lock, 'V', ARGV[1], '') end
return 1
