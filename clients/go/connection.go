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

// Requests change nothing on the server, so that each is safe to send again. While more than about
// one in ten tries fails nothing is: retries help against a pod that is gone, not against a service
// that is.
const serviceConfig = `{
	"methodConfig": [{
		"name": [{"service": "vireo.v1.RecommendationService"}],
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

// Target is whom to ask, and how to tell who asks.
type Target struct {
	Address   string // host:port
	Authority string // PEM file of the authorities to trust; plain text if empty
	Token     string // sent along if not empty; needs TLS
}

// Connect prepares a connection. It is made when it is first needed, and made anew when lost.
func (target Target) Connect() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		// A connection that is silently gone is noticed within 40 s, also while nothing is asked.
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

// bearer is a token that goes along with every call.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (token bearer) RequireTransportSecurity() bool { return true }
