-- Validate a caller's request before it is forwarded, and set the timeout of a try.
--
-- Some requests that HTTP allows make a gRPC server fail, reset the stream or, for a path that isn't
-- UTF-8, stop accepting calls. So an invalid path or timeout, or an unknown compression, is rejected, and
-- headers that gRPC can't carry are removed. A parameter that would override what a path or body says,
-- for example the viewer, is rejected too: the transcoder lets the last one win.

-- Methods by REST, out of the protos, which the control plane fills in: verb, path, whether the other
-- fields are in the body or the query, and the gRPC path.
local REST = {
  ${rest_methods}
}
-- Make of each its verb, the pattern of its path, the path's fields, whether it has a body, and its method.
for place, text in ipairs(REST) do
  local verb, path, parameters, method = text:match('^(%S+) (%S+) (%S+) (%S+)$')
  local rest = { verb = verb, fields = {}, body = parameters == 'body', method = method }
  for field in path:gmatch('{(.-)}') do
    rest.fields[field:gsub('_', ''):lower()] = true
  end
  -- For the transcoder any number of slashes may follow.
  rest.path = '^' .. path:gsub('[^%w_{}/]', '%%%0'):gsub('{.-}', '[^/]*') .. '/*$'
  REST[place] = rest
end
local INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED = '3', '5', '12'
local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }
local GRPC = { ['grpc-timeout'] = true, ['grpc-encoding'] = true, ['grpc-accept-encoding'] = true }
local ENCODINGS = { identity = true, gzip = true, deflate = true }
-- Methods that another gateway may be tried for. Not what is recorded: where the log is slow all gateways
-- are, and slates must not lose them for it.
local HEDGED = '^/vireo%.v1%.Re'
local BATCH = '/vireo.v1.RecommendationService/BatchRecommend' -- a stream of minutes
-- Maximum milliseconds until another gateway is tried too, otherwise half of the caller's deadline: a
-- gateway that hangs then costs a call time, but doesn't fail it.
local MAX_TRY = 500 -- also half of the gateway's default deadline
-- Minimum, below which no other gateway is tried: one that exceeds it twice is ejected, which gateways
-- that hang should be, but not those whose callers have short deadlines.
local MIN_TRY = 150

-- Gateways share fairly between callers, whom they know by this header.
local CALLER = 'x-vireo-caller'
local MAX_CALLER = 512
-- A token with this claim is for one viewer: gateways refuse requests of others.
local VIEWER, VIEWER_CLAIM = 'x-vireo-viewer', '${viewer_claim}'
local MAX_VIEWER = 128

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
    local status = code == NOT_FOUND and '404' or '400'
    handle:respond({ [':status'] = status, ['content-type'] = 'text/plain' }, why)
  end
end

-- Return the method by REST of a verb and a path, nil if there is none.
local function transcoded(verb, path)
  for _, rest in ipairs(REST) do
    if rest.verb == verb and path:find(rest.path) then
      return rest
    end
  end
end

-- Return why the parameters of a query can't be transcoded, nil if they can.
local function overriding(query, rest)
  for parameter in query:gmatch('[^&]+') do
    local name = (parameter:match('^[^=]+') or ''):gsub('%%(%x%x)', function(digits)
      return string.char(tonumber(digits, 16))
    end)
    local shown = name:gsub('[^%w_.]', '?')
    if rest.body then
      return shown .. ": can't be a parameter of a request with a body"
    end
    -- The transcoder knows a field by its name and by its name in JSON, and leaves some empty parts out.
    if rest.fields[name:gsub('[_.]', ''):lower()] then
      return shown .. ": can't be a parameter, since the path has it"
    end
  end
end

-- Return whether gRPC can carry a header.
local function fit(name, value)
  if name:find('^:') then
    return true
  end
  if name:find('[^%l%d_.-]') or value:find('[^\32-\126]') then
    return false
  end
  -- gRPC parses its own headers and binary ones; of these gateways need only those in GRPC.
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
    -- The request id is returned to the caller, so it is repaired instead.
    local id = name == 'x-request-id' and headers:get(name):gsub('[^\32-\126]', '?')
    headers:remove(name)
    if id then
      headers:add(name, id)
    end
  end
end

-- Return the claims of the caller's token, none if no token is required.
local function claims(handle)
  local token = handle:streamInfo():dynamicMetadata():get('envoy.filters.http.jwt_authn')
  return token and token.claims or {}
end

-- Return text as a header can carry it.
local function sendable(text, unfit)
  return (text:gsub(unfit, function(character)
    return string.format('%%%02x', character:byte())
  end))
end

-- Return a caller's name: its token's subject, or else its address.
local function caller(handle)
  local name = claims(handle).sub
  if type(name) ~= 'string' or name == '' then
    name = handle:streamInfo():downstreamRemoteAddress():gsub(':%d+$', '')
    if name:find(':') then
      -- An IPv6 subscriber usually has a whole /64.
      local groups = {}
      for group in (name:match('^%[?(.-)::') or name):gmatch('%x+') do
        groups[#groups + 1] = group
      end
      name = table.concat(groups, ':', 1, math.min(4, #groups)) .. '::'
    end
  end
  return sendable(name, '[^\33-\126]'):sub(1, MAX_CALLER)
end

-- Return the viewer that the caller's token names, nil if it names none. What can't be the id of a viewer
-- becomes the empty one, which no request has, and so does a missing subject where that is the viewer.
local function viewer(handle)
  local known = claims(handle)
  local name = known[VIEWER_CLAIM]
  if type(name) ~= 'string' or #name > MAX_VIEWER then
    name = (name ~= nil or VIEWER_CLAIM == 'sub' and next(known)) and ''
  end
  return name and sendable(name, '[^%w_.~-]')
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(':path') or ''
  if path:find('[^\33-\126]') then
    refuse(handle, headers, INVALID_ARGUMENT, 'path: must be printable ASCII; percent-encode everything else')
    return
  end
  -- Envoy has already removed an invalid one of gRPC, but not of REST.
  local timeout = headers:get('grpc-timeout')
  local amount, unit = (timeout or ''):match('^(%d+)([HMSmun])$')
  if timeout and not (amount and #amount <= 8) then
    local why = 'grpc-timeout: must be 1 to 8 digits followed by one of H, M, S, m, u and n'
    refuse(handle, headers, INVALID_ARGUMENT, why)
    return
  end
  local encoding = headers:get('grpc-encoding')
  if encoding and not ENCODINGS[encoding] then
    refuse(handle, headers, UNIMPLEMENTED, 'grpc-encoding: must be identity, deflate or gzip')
    return
  end
  -- The gRPC path of the method, by REST too.
  local method, query = path:match('^([^?]*)%??(.*)$')
  if method:find('^/v1/') and method ~= '/v1/openapi.json' then
    local rest = transcoded(headers:get(':method'), method)
    if not rest and query ~= '' then
      refuse(handle, headers, NOT_FOUND, 'no such method')
      return
    end
    local why = rest and overriding(query, rest)
    if why then
      refuse(handle, headers, INVALID_ARGUMENT, why)
      return
    end
    method = rest and rest.method or ''
  end
  leave_out_unfit(headers)
  headers:remove(CALLER)
  headers:add(CALLER, caller(handle))
  headers:remove(VIEWER)
  local named = viewer(handle)
  if named then
    headers:add(VIEWER, named)
  end
  if (headers:get('content-type') or ''):find('^application/grpc') then
    headers:replace('te', 'trailers') -- without it a gRPC server resets the stream
    if not encoding or encoding == 'identity' then
      -- Otherwise gRPC ends a call whose message says that it is compressed with INTERNAL, before the
      -- gateway, which finds out by itself, has a say.
      headers:replace('grpc-encoding', 'gzip')
    end
  end
  if method == BATCH or not method:find(HEDGED) then
    return -- for example a health watch, which is long-lived
  end
  local milliseconds = MAX_TRY
  if timeout then
    milliseconds = math.min(MAX_TRY, math.floor(0.5 * amount * UNITS[unit]))
  end
  if milliseconds >= MIN_TRY then
    headers:replace('x-envoy-upstream-rq-per-try-timeout-ms', string.format('%d', milliseconds))
  end
end
