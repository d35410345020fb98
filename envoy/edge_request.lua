-- What a caller's request must be before a gateway gets it, and after how long another gateway is asked.
--
-- A gRPC server takes some of what HTTP allows for an error of its own, resets the stream, or, by a path
-- that is no UTF-8, stops taking calls at all. So no caller may send it on: a path or timeout that is
-- none, or a compression that nobody here knows, is refused; a header that gRPC can't carry is left out.

local INVALID_ARGUMENT, UNIMPLEMENTED = '3', '12'
local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }
local GRPC = { ['grpc-timeout'] = true, ['grpc-encoding'] = true, ['grpc-accept-encoding'] = true }
local ENCODINGS = { identity = true, gzip = true, deflate = true }
local UNARY = { '^/vireo%.v1%.', '^/v1/' }
-- Milliseconds until another gateway is asked too: half of the caller's time, at most this. A gateway that
-- hangs then costs a caller time, but not the answer.
local MAX_TRY = 500 -- also half of what a gateway gives a caller without a deadline
-- And not at all if it would be less than this: a gateway that takes longer twice is left out for a while,
-- and only those that hang should be, not those whose callers are in a hurry.
local MIN_TRY = 150

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

-- Whether a header is one that gRPC can carry.
local function fit(name, value)
  if name:find('^:') then
    return true
  end
  if name:find('[^%l%d_.-]') or value:find('[^\32-\126]') then
    return false
  end
  -- gRPC's own, which it parses; and binary ones, of which gateways read none.
  return GRPC[name] or not (name:find('^grpc%-') or name:find('%-bin$'))
end

local function leave_out_unfit(headers)
  local unfit = {}
  for name, value in pairs(headers) do
    if not fit(name, value) then
      unfit[#unfit + 1] = name
    end
  end
  for _, name in ipairs(unfit) do
    -- It comes back in the answer: something must.
    local id = name == 'x-request-id' and headers:get(name):gsub('[^\32-\126]', '?')
    headers:remove(name)
    if id then
      headers:add(name, id)
    end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(':path') or ''
  if path:find('[^\33-\126]') then
    refuse(handle, headers, INVALID_ARGUMENT, 'path: must be printable ASCII, all else percent-encoded')
    return
  end
  -- One of gRPC that is unfit Envoy has left out by now: it counts as none. REST's is still here.
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
  leave_out_unfit(headers)
  if (headers:get('content-type') or ''):find('^application/grpc') then
    headers:replace('te', 'trailers') -- without it a gRPC server resets the stream
  end
  if not (path:find(UNARY[1]) or path:find(UNARY[2])) then
    return -- a health watch, for example, is to last
  end
  local milliseconds = MAX_TRY
  if timeout then
    milliseconds = math.min(MAX_TRY, math.floor(0.5 * amount * UNITS[unit]))
  end
  if milliseconds >= MIN_TRY then
    headers:replace('x-envoy-upstream-rq-per-try-timeout-ms', string.format('%d', milliseconds))
  end
end
