-- KEYS: entry. ARGV: version, the tombstone's time to live in ms or 0. Drops the entry by itself, unless its version is
-- high enough; returns 'O' (older), 'D' (dropped) or 'A' (absent).
local there = redis.pcall('GET', KEYS[1])
local state, version, tombstone = state_of_value(there), ARGV[1], tonumber(ARGV[2])
if version ~= NONE and state and not higher(version, max(version_of(there), floor_of(there))) then return 'O' end
if version ~= NONE and tombstone > 0 then
  redis.call('SET', KEYS[1], '\158RT\26\1\0\0\0' .. NONE .. version .. string.rep('\0', 16), 'PX', tombstone)
elseif there then
  redis.call('UNLINK', KEYS[1])
end
return (there and state ~= TOMBSTONE) and 'D' or 'A'
