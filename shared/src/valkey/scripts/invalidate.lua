local PREFIX = '\158RT\26\1'
local BLANK = string.rep('\0', 16)

-- The first 80 bytes and the state of what stands under a key: nothing where it is absent, no state where foreign.
-- Whether it is whole is left to whoever is about to keep it.
local function look(key)
  local head = redis.pcall('GETRANGE', key, 0, 79)
  if head == '' then return nil, nil end
  if type(head) ~= 'string' then return '', nil end
  return head, state_of(head)
end

local function is_kept_whole(key, head)
  return is_whole(head, redis.call('STRLEN', key))
end

local function entomb(key, floor, ttl)
  return redis.pcall('SET', key, PREFIX .. '\0\0\0' .. NONE .. floor .. BLANK, 'PX', ttl)
end

-- Takes a lease away; 1 if there was one.
local function void(key, name, lock)
  if not lock then return 0 end
  redis.call('UNLINK', name)
  if is_lock(lock) then tell(lock, 'V', key, '') end
  return 1
end

-- Makes the fill that is under way prove `floor`; where that cannot be noted down, the lease is taken away instead.
local function raise(key, name, lock, floor)
  if not lock then return 0 end
  if is_lock(lock) then
    if not higher(floor, lock_floor_of(lock)) then return 0 end
    if type(redis.pcall('SETRANGE', name, 20, floor)) == 'number' then return 0 end
  end
  return void(key, name, lock)
end
