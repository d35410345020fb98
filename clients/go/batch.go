package vireo

import (
	"context"
	"io"
	"iter"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vireo-recommender/vireo-go/vireov1"
)

// Batch returns the slates of any number of viewers, in their order and each once. A stream that ends early,
// for example because its gateway restarts, is resumed after the last slate, on any gateway. An error is the
// last value: one that no resuming mends, or that of streams that fail for longer than [Options.Patience].
func (client *Client) Batch(ctx context.Context, request *vireov1.BatchRecommendRequest) iter.Seq2[*vireov1.BatchRecommendResponse, error] {
	return func(yield func(*vireov1.BatchRecommendResponse, error) bool) {
		ctx, id := withRequestID(ctx)
		for viewers := range slices.Chunk(request.ViewerIds, table.Batch.MaxViewers) {
			part := proto.Clone(request).(*vireov1.BatchRecommendRequest)
			part.ViewerIds, part.ResumeToken = viewers, ""
			if !client.batchPart(ctx, id, part, yield) {
				return
			}
		}
	}
}

// batchPart yields the slates of the viewers of one request. It returns whether the caller reads on.
func (client *Client) batchPart(
	ctx context.Context, id string, request *vireov1.BatchRecommendRequest, yield func(*vireov1.BatchRecommendResponse, error) bool,
) bool {
	shortest := seconds(table.Batch.MinPauseSeconds)
	pause, failing := shortest, time.Time{}
	for {
		failed := client.stream(ctx, id, request, func(response *vireov1.BatchRecommendResponse) bool {
			request.ResumeToken = response.ResumeToken
			pause, failing = shortest, time.Time{}
			return yield(response, nil)
		})
		if failed == nil {
			return true
		}
		if failed == stopped {
			return false
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		delay := pause
		if failed.RetryAfter != nil {
			delay = max(delay, *failed.RetryAfter)
		}
		tooLarge := failed.Code == codes.ResourceExhausted && failed.RetryAfter == nil
		late := time.Since(failing)+delay > client.patience
		if tooLarge || late || !slices.Contains(table.Batch.Codes, failed.Code) || !sleep(ctx, delay) {
			yield(nil, failed)
			return false
		}
		pause = min(2*pause, seconds(table.Batch.MaxPauseSeconds))
	}
}

// stopped is what a stream ends with whose caller reads no further.
var stopped = &Error{}

// stream gives each response of one stream to take. It returns nil at the end of the stream.
func (client *Client) stream(
	ctx context.Context, id string, request *vireov1.BatchRecommendRequest, take func(*vireov1.BatchRecommendResponse) bool,
) *Error {
	ctx, cancel := context.WithTimeout(ctx, seconds(table.Batch.StreamTimeoutSeconds))
	defer cancel()
	stream, err := client.slates.BatchRecommend(ctx, request)
	if err != nil {
		return errorOf(err, nil, id)
	}
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errorOf(err, stream.Trailer(), id)
		}
		if !take(response) {
			return stopped
		}
	}
}
