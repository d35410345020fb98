package vireo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TrustFile returns a TLS configuration that trusts the authorities in a PEM file, and no others.
func TrustFile(path string) (*tls.Config, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", path)
	}
	return &tls.Config{RootCAs: roots}, nil
}

// StaticToken returns a source of one token, for [Options].
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// bearer sends the current token with every attempt.
type bearer func(context.Context) (string, error)

func (source bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := source(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (source bearer) RequireTransportSecurity() bool { return true }
