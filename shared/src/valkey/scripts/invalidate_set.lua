-- KEYS: n entries, then their n locks in the same order. Drops and voids. Mostly nothing is cached and no lease is
-- held, so that path is two calls for the whole batch. Returns how many entries were dropped and how many leases voided.
local n = #KEYS / 2
local dropped = redis.call('UNLINK', unpack(KEYS, 1, n))
if redis.call('EXISTS', unpack(KEYS, n + 1)) == 0 then return {dropped, 0} end

local locks = redis.call('MGET', unpack(KEYS, n + 1))
local voided = redis.call('UNLINK', unpack(KEYS, n + 1))
for i = 1, n do
  if is_lock(locks[i]) then tell(locks[i], 'V', KEYS[i], '') end
end
return {dropped, voided}
