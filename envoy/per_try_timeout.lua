-- Says after how much of a caller's time another gateway is asked too: half of it, half a second
-- at most. A gateway that hangs then costs a caller time, but not the answer.

local MOST = 500 -- milliseconds; also half of what a gateway gives a caller without a deadline
local LEAST = 25 -- a gateway that isn't slow answers within this
local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }
local UNARY = { '^/vireo%.v1%.', '^/v1/' }

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(':path')
  if not path or not (path:find(UNARY[1]) or path:find(UNARY[2])) then
    return -- a health watch, for example, is to last
  end
  local amount, unit = (headers:get('grpc-timeout') or ''):match('^(%d+)([HMSmun])$')
  local milliseconds = MOST
  if amount then
    milliseconds = math.max(LEAST, math.min(MOST, math.floor(0.5 * amount * UNITS[unit])))
  end
  headers:replace('x-envoy-upstream-rq-per-try-timeout-ms', string.format('%d', milliseconds))
end
