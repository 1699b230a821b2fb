-- acquire: admit one request and charge every claim of it, or refuse it and charge none.
--
-- KEYS  the account of each claim
-- ARGV  "charge", or "look" to decide nothing; the time in seconds, or "" for the server's own;
--       seconds that an account outlives its use; then for each claim
--         "sliding", capacity, longest window, number of windows, and of each window limit and seconds
--         "gcra", burst, longest window, number of windows, and of each window limit and seconds
-- Gives one text of words: 1 if admitted (of "look": if every account is there) or 0, the time, the claim that refuses
-- and its window (from 1; 0 = none), the wait, then of every window of every claim what is left and when the next
-- unit comes back.
--
-- The arithmetic is that of core/sliding.py and core/gcra.py, operation by operation, so that the same times give the
-- same doubles. A subject's time never goes back: with a server clock that was stepped back, a charge is taken to
-- happen when the newest one did. What lies further in the future than the longest window comes from a clock that was
-- wrong then, and is dropped: else it would shut its subject out until that time.

local call = redis.call
local floor, max, min = math.floor, math.max, math.min
local EPOCH = 1767225600  -- 2026-01-01: small numbers keep more of a double's digits for fractions of a second

local function text(number)
  local short = string.format('%.15g', number)
  if tonumber(short) == number then
    return short
  end
  return string.format('%.17g', number)
end

local charging = ARGV[1] == 'charge'
local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = ((time[1] - EPOCH) * 1000000 + time[2]) / 1000000
end
local outlives = tonumber(ARGV[3])

local known = true
local worst, refused, refusing = 0, 0, 0

local function judge(claim, index, window, wait)
  if wait > 0 and claim.clock + wait > claim.clock and wait + (claim.clock - now) > worst then
    worst, refused, refusing = wait + (claim.clock - now), index, window
  end
end

-- A clock that is behind the newest charge of a subject stands still until it has caught up.
local function settle(claim, newest)
  -- What is no number is unequal to itself.
  if not newest or newest ~= newest or newest > now + claim.longest then
    return false
  end
  claim.clock = max(now, newest)
  return true
end

local function milliseconds(seconds)
  return string.format('%.0f', max(math.ceil((seconds + outlives) * 1000), 1))
end

local sliding = {}

local function ring(claim, index)
  return tonumber(call('LINDEX', claim.key, index))
end

function sliding.check(claim, index)
  claim.length = call('LLEN', claim.key)
  known = known and claim.length > 0
  local newest = claim.length > 0 and ring(claim, -1)
  if not settle(claim, newest) then
    claim.is_void = claim.length > 0
    claim.length = 0
  end
  claim.newest = newest
  for window = 1, #claim.limits do
    local limit = claim.limits[window]
    if claim.length >= limit then
      judge(claim, index, window, ring(claim, -limit) + claim.seconds[window] - claim.clock)
    end
  end
end

function sliding.charge(claim)
  if claim.is_void then
    call('DEL', claim.key)
  end
  claim.length = call('RPUSH', claim.key, text(claim.clock))
  if claim.length > claim.size then
    call('LTRIM', claim.key, -claim.size, -1)
    claim.length = claim.size
  end
  claim.newest = claim.clock
  call('PEXPIRE', claim.key, milliseconds(claim.clock + claim.longest - now))
end

-- The place of the ring's first time behind `begin`, where the last one is, and that time: bisection.
local function first_behind(claim, limit, begin)
  claim.oldest = claim.oldest or ring(claim, 0)
  if claim.oldest > begin then
    return 0, claim.oldest
  end
  local low, high = 1, claim.length - 1
  local before = claim.length - limit - 1
  if before > 0 and ring(claim, before) <= begin then
    low = before + 1
  end
  while low < high do
    local middle = floor((low + high) / 2)
    if ring(claim, middle) > begin then
      high = middle
    else
      low = middle + 1
    end
  end
  return low, ring(claim, low)
end

function sliding.remaining(claim, limit, seconds)
  local length = claim.length
  local begin = claim.clock - seconds
  if length == 0 or claim.newest <= begin then
    return limit, 0
  end
  local first, time = first_behind(claim, limit, begin)
  if length - limit > first then
    time = ring(claim, -limit)
  end
  return max(limit - length + first, 0), time - begin
end

local gcra = {}

function gcra.check(claim, index)
  claim.held = {}
  local account = call('GET', claim.key)
  known = known and account
  local last
  for word in string.gmatch(account or '', '%S+') do
    if last then
      claim.held[#claim.held + 1] = tonumber(word)
    else
      last = tonumber(word)
    end
  end
  if not settle(claim, last) then
    claim.held = {}
    return
  end
  for window = 1, #claim.limits do
    local held = claim.held[window]
    -- Of what is no number, or no finite one, nothing can leak away.
    if not held or held - held ~= 0 then
      claim.held = {}
      return
    end
  end
  local since = claim.clock - last
  for window = 1, #claim.limits do
    local limit, seconds = claim.limits[window], claim.seconds[window]
    claim.held[window] = claim.held[window] - since * limit
    judge(claim, index, window, (claim.held[window] - (min(claim.size, limit) - 1) * seconds) / limit)
  end
end

function gcra.charge(claim)
  local words, longest = {text(claim.clock)}, 0
  for window = 1, #claim.limits do
    local held = max(claim.held[window] or 0, 0) + claim.seconds[window]
    claim.held[window] = held
    words[window + 1] = text(held)
    longest = max(longest, held / claim.limits[window])
  end
  call('SET', claim.key, table.concat(words, ' '), 'PX', milliseconds(claim.clock + longest - now))
end

function gcra.remaining(claim, limit, seconds, window)
  local burst, held = min(claim.size, limit), claim.held[window]
  if not held then
    return burst, 0
  end
  local room = max(floor(burst - held / seconds), 0)
  local reset = (held - (burst - room - 1) * seconds) / limit
  if claim.clock + reset <= claim.clock then
    room = room + 1
    reset = reset + seconds / limit
  end
  if room < burst then
    return room, reset
  end
  return burst, 0
end

local ALGORITHMS = {sliding = sliding, gcra = gcra}

local claims = {}
local place = 4
for index, key in ipairs(KEYS) do
  local claim = {
    key = key,
    clock = now,
    algorithm = ALGORITHMS[ARGV[place]],
    size = tonumber(ARGV[place + 1]),
    longest = tonumber(ARGV[place + 2]),
    limits = {},
    seconds = {},
  }
  local windows = tonumber(ARGV[place + 3])
  place = place + 4
  for window = 1, windows do
    claim.limits[window] = tonumber(ARGV[place])
    claim.seconds[window] = tonumber(ARGV[place + 1])
    place = place + 2
  end
  claim.algorithm.check(claim, index)
  claims[index] = claim
end

local admitted = refused == 0
local answer = {(charging and admitted or not charging and known) and '1' or '0',
  text(now), refused, refusing, text(worst)}
for _, claim in ipairs(claims) do
  if charging and admitted then
    claim.algorithm.charge(claim)
  end
  for window = 1, #claim.limits do
    local left, reset = claim.algorithm.remaining(claim, claim.limits[window], claim.seconds[window], window)
    answer[#answer + 1] = text(left)
    answer[#answer + 1] = text(reset > 0 and reset + (claim.clock - now) or 0)
  end
end
return table.concat(answer, ' ')
