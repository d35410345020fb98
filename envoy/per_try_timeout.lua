-- Says after how much of a caller's time another gateway is asked too: half of it, half a second
-- at most. A gateway that hangs then costs a caller time, but not the answer.
-- A grpc-timeout that is none, or a compression that nobody here knows, is refused: a gRPC server
-- would call it an error of its own.

local INVALID_ARGUMENT, UNIMPLEMENTED = '3', '12'
local MOST = 500 -- milliseconds; also half of what a gateway gives a caller without a deadline
local LEAST = 25 -- a gateway that isn't slow answers within this
local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }
local ENCODINGS = { identity = true, gzip = true, deflate = true }
local UNARY = { '^/vireo%.v1%.', '^/v1/' }

local function refuse(handle, headers, code, why)
  if (headers:get('content-type') or ''):find('^application/grpc') then
    handle:respond({
      [':status'] = '200',
      ['content-type'] = 'application/grpc',
      ['grpc-status'] = code,
      ['grpc-message'] = why,
      ['grpc-accept-encoding'] = 'identity,deflate,gzip',
    }, '')
  else
    handle:respond({ [':status'] = '400', ['content-type'] = 'text/plain' }, why)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local timeout = headers:get('grpc-timeout')
  local amount, unit = (timeout or ''):match('^(%d+)([HMSmun])$')
  if timeout and not (amount and #amount <= 8) then
    local why = 'grpc-timeout: must be 1 to 8 digits and one of H, M, S, m, u and n'
    refuse(handle, headers, INVALID_ARGUMENT, why)
    return
  end
  local encoding = headers:get('grpc-encoding')
  if encoding and not ENCODINGS[encoding] then
    refuse(handle, headers, UNIMPLEMENTED, 'grpc-encoding: must be identity, deflate or gzip')
    return
  end
  local path = headers:get(':path')
  if not path or not (path:find(UNARY[1]) or path:find(UNARY[2])) then
    return -- a health watch, for example, is to last
  end
  local milliseconds = MOST
  if timeout then
    milliseconds = math.max(LEAST, math.min(MOST, math.floor(0.5 * amount * UNITS[unit])))
  end
  headers:replace('x-envoy-upstream-rq-per-try-timeout-ms', string.format('%d', milliseconds))
end
