// Package vireo is a client of Vireo: it requests slates, records what viewers do, and changes the catalogue.
//
// Requests and responses are the messages of [vireov1]. A failed call returns an [*Error].
package vireo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/vireo-recommender/vireo-go/vireov1"
)

const userAgent = "vireo-go/" + Version

// Options say how a client connects and calls. The zero value is plaintext with the defaults.
type Options struct {
	// Timeout of a call whose context has no deadline, retries included; 1 s if zero. Calls that record
	// events or change the catalogue have at least 5 s.
	Timeout time.Duration
	// Attempts is the maximum number of attempts of a call, 1 to 5; 3 if zero. 1 disables all retries but
	// those of batches.
	Attempts int
	// Patience is the maximum time for which the streams of a batch may fail without any slate; 120 s if zero.
	Patience time.Duration
	// TLS holds trusted authorities, and a client certificate if any; plaintext if nil. See [TrustFile].
	TLS *tls.Config
	// Token returns the current bearer token; no token if nil. It is called for every attempt, from any
	// goroutine, and needs TLS.
	Token func(context.Context) (string, error)
	// DialOptions are further options of gRPC, such as interceptors; they take precedence.
	DialOptions []grpc.DialOption
}

// Client is a client of a stack with one connection, for any number of goroutines. Create one and reuse it.
type Client struct {
	conn     *grpc.ClientConn
	slates   vireov1.RecommendationServiceClient
	events   vireov1.EventServiceClient
	catalog  vireov1.CatalogServiceClient
	timeout  time.Duration
	patience time.Duration
	repeats  int
}

// New returns a client of the stack at target, host:port or another name that gRPC resolves. It connects on
// the first call, and again whenever the connection is lost.
func New(target string, options Options) (*Client, error) {
	if options.Attempts == 0 {
		options.Attempts = table.maxAttempts()
	}
	if options.Attempts < 1 || options.Attempts > 5 {
		return nil, fmt.Errorf("attempts must be from 1 to 5, not %d", options.Attempts)
	}
	transport := insecure.NewCredentials()
	if options.TLS != nil {
		transport = credentials.NewTLS(options.TLS)
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent(userAgent),
		grpc.WithDefaultServiceConfig(table.serviceConfig(options.Attempts)),
		// Detects a silently lost connection within 40 s, even without calls.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                30 * time.Second,
			Timeout:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		// Reconnects within seconds; the default backoff grows to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: time.Second,
		}),
	}
	if options.Token != nil {
		if options.TLS == nil {
			return nil, errors.New("a token must not be sent in plain text: set TLS too")
		}
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(options.Token)))
	}
	conn, err := grpc.NewClient(target, append(dial, options.DialOptions...)...)
	if err != nil {
		return nil, err
	}
	client := &Client{
		conn:     conn,
		slates:   vireov1.NewRecommendationServiceClient(conn),
		events:   vireov1.NewEventServiceClient(conn),
		catalog:  vireov1.NewCatalogServiceClient(conn),
		timeout:  orDefault(options.Timeout, time.Second),
		patience: orDefault(options.Patience, seconds(table.Batch.PatienceSeconds)),
	}
	if options.Attempts > 1 {
		client.repeats = 1
	}
	return client, nil
}

// Conn returns the connection, for stubs of your own: vireov1.NewEventServiceClient(client.Conn()). Their
// calls have the token, and the retries of gRPC, but neither a timeout nor typed errors.
func (client *Client) Conn() grpc.ClientConnInterface { return client.conn }

// Close closes the connection; calls in flight fail with CANCELLED.
func (client *Client) Close() error { return client.conn.Close() }

// Recommend returns the slate of a viewer, or one page of it.
func (client *Client) Recommend(ctx context.Context, request *vireov1.RecommendRequest) (*vireov1.RecommendResponse, error) {
	return read(ctx, client, client.slates.Recommend, request)
}

// SimilarVideos returns the videos like one.
func (client *Client) SimilarVideos(ctx context.Context, request *vireov1.SimilarVideosRequest) (*vireov1.SimilarVideosResponse, error) {
	return read(ctx, client, client.slates.SimilarVideos, request)
}

// ExplainVideo returns why a video is in a viewer's slate, or isn't. It costs more than Recommend: it is for people.
func (client *Client) ExplainVideo(ctx context.Context, request *vireov1.ExplainVideoRequest) (*vireov1.ExplainVideoResponse, error) {
	return read(ctx, client, client.slates.ExplainVideo, request)
}

// RecordEvents records what viewers did, all of it or nothing. If it fails, send the same events again: each
// counts once, by its id.
func (client *Client) RecordEvents(ctx context.Context, request *vireov1.RecordEventsRequest) (*vireov1.RecordEventsResponse, error) {
	return write(ctx, client, client.events.RecordEvents, request)
}

// UpsertVideos adds videos to the catalogue, or replaces what is known of them.
func (client *Client) UpsertVideos(ctx context.Context, request *vireov1.UpsertVideosRequest) (*vireov1.UpsertVideosResponse, error) {
	return write(ctx, client, client.catalog.UpsertVideos, request)
}

// RemoveVideos removes videos from all slates.
func (client *Client) RemoveVideos(ctx context.Context, request *vireov1.RemoveVideosRequest) (*vireov1.RemoveVideosResponse, error) {
	return write(ctx, client, client.catalog.RemoveVideos, request)
}

// Pages returns the pages of a slate until there are no more videos; no video is on two of them. Each page is
// a call of its own, made when it is asked for; an error is the last value.
func (client *Client) Pages(ctx context.Context, request *vireov1.RecommendRequest) iter.Seq2[*vireov1.RecommendResponse, error] {
	return func(yield func(*vireov1.RecommendResponse, error) bool) {
		page := proto.Clone(request).(*vireov1.RecommendRequest)
		for {
			response, err := client.Recommend(ctx, page)
			if !yield(response, err) || err != nil || response.NextPageToken == "" {
				return
			}
			page.PageToken = response.NextPageToken
		}
	}
}

func orDefault(given, otherwise time.Duration) time.Duration {
	if given == 0 {
		return otherwise
	}
	return given
}
