-- KEYS: entry, lock. ARGV: version, deadline in ms of the server's clock or 0, '1' to store where nothing is cached,
-- time to live in ms, entry, longest entry in a notice, the tombstone's time to live in ms or 0.
-- Returns what was done and how many leases were voided.
local key, name, version, entry = KEYS[1], KEYS[2], ARGV[1], ARGV[5]
local deadline, tombstone = tonumber(ARGV[2]), tonumber(ARGV[7])
local head, state = look(key)
if state and not is_kept_whole(key, head) then state = nil end
local lock = redis.pcall('GET', name)
if type(lock) == 'table' then lock = 'foreign' end

-- Takes entry and lease away where the image is not stored; like an invalidation, it leaves a floor if loads may lag.
local function drop(answer)
  local stored = tombstone > 0 and entomb(key, version, tombstone) or {}
  if head and (tombstone == 0 or stored.err) then redis.call('UNLINK', key) end
  local voided = void(key, name, lock)
  -- A floor that could not be noted down has to be tried again.
  if stored.err then return stored end
  return {answer, voided}
end

if state and not higher(version, max(version_of(head), floor_of(head))) then
  return {'O', raise(key, name, lock, version)}
end

if deadline > 0 then
  local now = redis.call('TIME')
  if now[1] * 1000 + math.floor(now[2] / 1000) > deadline then
    return drop('L')
  end
end

if (state and state ~= TOMBSTONE) or ARGV[3] == '1' then
  local stored = redis.pcall('SET', key, entry, 'PX', ARGV[4])
  if stored.err then
    return drop(head and 'D' or 'A')
  end
  if not lock then return {'R', 0} end
  redis.call('UNLINK', name)
  if is_lock(lock) then tell(lock, 'F', key, #entry <= tonumber(ARGV[6]) and entry or '') end
  return {'R', 1}
end

local answer = (head and not state) and 'D' or 'A'
if tombstone > 0 then
  local stored = entomb(key, version, tombstone)
  if stored.err then
    void(key, name, lock)
    return stored
  end
elseif state == TOMBSTONE then
  redis.pcall('SETRANGE', key, 36, version)
elseif head then
  redis.call('UNLINK', key)
end
return {answer, raise(key, name, lock, version)}
