package vireo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vireo-recommender/vireo-go/vireov1"
)

// RequestIDKey is the metadata key of a call's id in the server's logs. A client generates an id unless the
// context's outgoing metadata has one.
const RequestIDKey = "x-request-id"

// NewEvent returns an event that happens now, with an id by which it counts once, however often it is sent.
func NewEvent(kind vireov1.EventKind, viewerID, videoID string) *vireov1.Event {
	return &vireov1.Event{EventId: newID(), ViewerId: viewerID, Kind: kind, VideoId: videoID, Time: timestamppb.Now()}
}

// method is a unary method of a stub.
type method[Request, Response any] func(context.Context, Request, ...grpc.CallOption) (Response, error)

// read makes a call that changes nothing.
func read[Request, Response any](ctx context.Context, client *Client, call method[Request, Response], request Request) (Response, error) {
	return send(ctx, client.timeout, client.repeats, table.Repeat.Reads, call, request)
}

// write makes a call that records events or changes the catalogue.
func write[Request, Response any](ctx context.Context, client *Client, call method[Request, Response], request Request) (Response, error) {
	timeout := max(client.timeout, seconds(table.Repeat.WriteTimeoutSeconds))
	return send(ctx, timeout, client.repeats, table.Repeat.Writes, call, request)
}

// send makes a call, and repeats it after the server's delay if it fails with one of some codes.
func send[Request, Response any](
	ctx context.Context, timeout time.Duration, repeats int, repeated []codes.Code, call method[Request, Response], request Request,
) (Response, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	ctx, id := withRequestID(ctx)
	for ; ; repeats-- {
		var trailer metadata.MD
		response, err := call(ctx, request, grpc.Trailer(&trailer))
		if err == nil {
			return response, nil
		}
		failed := errorOf(err, trailer, id)
		if repeats == 0 || !slices.Contains(repeated, failed.Code) {
			return response, failed
		}
		delay := seconds(table.Repeat.DelaySeconds)
		if failed.RetryAfter != nil {
			delay = *failed.RetryAfter
		} else if failed.Code == codes.ResourceExhausted {
			return response, failed // too large, and so it will stay
		}
		if !sleep(ctx, delay) {
			return response, failed
		}
	}
}

// sleep waits for a delay and some jitter, so that callers that were shed together don't return together. It
// returns false, at once, if the context ends before that.
func sleep(ctx context.Context, delay time.Duration) bool {
	delay += time.Duration(mathrand.Float64() * table.Jitter * float64(delay))
	if deadline, limited := ctx.Deadline(); limited && time.Until(deadline) <= delay {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
		return true
	}
}

func withRequestID(ctx context.Context) (context.Context, string) {
	given, _ := metadata.FromOutgoingContext(ctx)
	if ids := given.Get(RequestIDKey); len(ids) > 0 {
		return ctx, ids[0]
	}
	id := newID()
	return metadata.AppendToOutgoingContext(ctx, RequestIDKey, id), id
}

func newID() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic(err) // the system has no random numbers
	}
	return hex.EncodeToString(id)
}
