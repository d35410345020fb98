package main

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Requests are idempotent, so all may be retried, but not while more than about one in ten attempts
// fails: retries help if a pod is down, not if the service is.
const serviceConfig = `{
	"methodConfig": [{
		"name": [{"service": "vireo.v1.RecommendationService"}, {"service": "vireo.v1.EventService", "method": "RecordEvents"}],
		"retryPolicy": {
			"maxAttempts": 3,
			"initialBackoff": "0.02s",
			"maxBackoff": "0.5s",
			"backoffMultiplier": 3,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}],
	"retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1}
}`

// Target is the address of a stack, with credentials.
type Target struct {
	Address   string // host:port
	Authority string // PEM file of trusted authorities; plaintext if empty
	Token     string // bearer token, if not empty; needs TLS
}

// Connect prepares a connection, which is opened on the first call and reopened if lost.
func (target Target) Connect() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Detects a silently lost connection within 40 s, even without calls.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                30 * time.Second,
			Timeout:             10 * time.Second,
			PermitWithoutStream: true,
		}),
	}
	if target.Authority == "" {
		if target.Token != "" {
			return nil, errors.New("a token must not travel in plain text: give --tls-ca, too")
		}
		return grpc.NewClient(target.Address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	}
	tls, err := credentials.NewClientTLSFromFile(target.Authority, "")
	if err != nil {
		return nil, err
	}
	options = append(options, grpc.WithTransportCredentials(tls))
	if target.Token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(target.Token)))
	}
	return grpc.NewClient(target.Address, options...)
}

// bearer is a token that is sent with every call.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (token bearer) RequireTransportSecurity() bool { return true }
