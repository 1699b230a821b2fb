-- give_back: undo the charge made at a time, as far as that lets no more through than is promised.
--
-- KEYS  the account of each claim
-- ARGV  the time of the charge, then for each claim "sliding"; or "gcra", number of windows, and of each its seconds
-- Gives how many of the accounts had that charge. core/sliding.py and core/gcra.py say why.

local call = redis.call

local function text(number)
  local short = string.format('%.15g', number)
  if tonumber(short) == number then
    return short
  end
  return string.format('%.17g', number)
end

local at = tonumber(ARGV[1])
local undone = 0
local place = 2
for _, key in ipairs(KEYS) do
  if ARGV[place] == 'sliding' then
    undone = undone + call('LREM', key, -1, text(at))
    place = place + 1
  else
    local windows = tonumber(ARGV[place + 1])
    local account = call('GET', key)
    local words = {}
    for word in string.gmatch(account or '', '%S+') do
      words[#words + 1] = word
    end
    if account and tonumber(words[1]) == at then
      for window = 1, windows do
        words[window + 1] = text(tonumber(words[window + 1]) - tonumber(ARGV[place + 1 + window]))
      end
      call('SET', key, table.concat(words, ' '), 'KEEPTTL')
      undone = undone + 1
    end
    place = place + 2 + windows
  end
end
return undone
