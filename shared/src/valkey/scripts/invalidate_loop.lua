-- KEYS: n entries, then their n locks in the same order. ARGV: for how many ms values are kept as stale (0 for not), the
-- tombstone's time to live in ms (0 for none), then n versions. Returns absent, dropped, marked, older, voided.
local n = #KEYS / 2
local keep, tombstone = tonumber(ARGV[1]), tonumber(ARGV[2])
local absent, dropped, marked, older, voided = 0, 0, 0, 0, 0
local failed

local locks
if redis.call('EXISTS', unpack(KEYS, n + 1)) > 0 then locks = redis.call('MGET', unpack(KEYS, n + 1)) end

-- Keys to unlink at the end, in one call. A key may come twice in a batch.
local gone = {}

for i = 1, n do
  local key, version = KEYS[i], ARGV[i + 2]
  local head, state
  if not gone[key] then head, state = look(key) end
  local kept = keep > 0 and (state == VALUE or state == STALE) and is_kept_whole(key, head)

  if version == NONE then
    if kept and (state == STALE or type(redis.pcall('SETRANGE', key, 5, '\3')) == 'number') then
      -- Counted from the first mark, however often it is repeated.
      redis.call('PEXPIRE', key, keep, 'LT')
      marked = marked + 1
    elseif head then
      gone[key] = true
      dropped = dropped + 1
    else
      absent = absent + 1
    end
  elseif state and not higher(version, max(version_of(head), floor_of(head))) and is_kept_whole(key, head) then
    older = older + 1
  elseif kept and type(redis.pcall('SETRANGE', key, 5, '\3' .. head:sub(7, 36) .. version)) == 'number' then
    redis.call('PEXPIRE', key, keep, 'LT')
    -- The floor has to outlive loads that lag, as a tombstone would.
    if tombstone > 0 then redis.call('PEXPIRE', key, tombstone, 'GT') end
    marked = marked + 1
  else
    if tombstone > 0 then
      local stored = entomb(key, version, tombstone)
      gone[key] = stored.err and true or nil
      failed = failed or stored.err and stored
    elseif head and not (state == TOMBSTONE and type(redis.pcall('SETRANGE', key, 36, version)) == 'number') then
      gone[key] = true
    end
    if head and state ~= TOMBSTONE then dropped = dropped + 1 else absent = absent + 1 end
  end

  -- Read again, because the key may come twice.
  local lock = locks and locks[i] and redis.pcall('GET', KEYS[n + i])
  if version == NONE then
    voided = voided + void(key, KEYS[n + i], lock)
  else
    voided = voided + raise(key, KEYS[n + i], lock, version)
  end
end

local names = {}
for key in pairs(gone) do names[#names + 1] = key end
if #names > 0 then redis.call('UNLINK', unpack(names)) end
-- Everything was dropped, but a floor that could not be noted down has to be tried again.
if failed then return failed end
return {absent, dropped, marked, older, voided}
