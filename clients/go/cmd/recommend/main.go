// Command recommend requests slates from a Vireo stack and prints each as JSON; before that it may record
// what the viewer has played, and change the catalogue. It also asks for the videos like one, and why a video
// is on a page or isn't.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	vireo "github.com/vireo-recommender/vireo-go"
	"github.com/vireo-recommender/vireo-go/vireov1"
)

func main() {
	given := parse()
	// One client serves any number of goroutines: a server creates one and reuses it.
	client, err := given.client()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	defer client.Close()
	if err := run(context.Background(), client, given); err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
}

func run(ctx context.Context, client *vireo.Client, given options) error {
	if err := change(ctx, client, given); err != nil {
		return err
	}
	switch {
	case given.similar != "":
		request := &vireov1.SimilarVideosRequest{VideoId: given.similar, PageSize: &given.pageSize, Filter: given.filter()}
		response, err := client.SimilarVideos(ctx, request)
		if err != nil {
			return err
		}
		return printLine(slateOf(response))
	case given.why != "":
		response, err := client.ExplainVideo(ctx, &vireov1.ExplainVideoRequest{Request: given.request(), VideoId: given.why})
		if err != nil {
			return err
		}
		return printLine(explanationOf(given.why, response))
	case len(given.viewers) > 1:
		return printBatch(ctx, client, given)
	default:
		return printPages(ctx, client, given)
	}
}

// change records the event, and changes the catalogue, before anything is asked for.
func change(ctx context.Context, client *vireo.Client, given options) error {
	if given.upsert != "" {
		videos := []*vireov1.Video{{VideoId: given.upsert, Title: given.upsert}}
		if _, err := client.UpsertVideos(ctx, &vireov1.UpsertVideosRequest{Videos: videos}); err != nil {
			return err
		}
	}
	if given.remove != "" {
		if _, err := client.RemoveVideos(ctx, &vireov1.RemoveVideosRequest{VideoIds: []string{given.remove}}); err != nil {
			return err
		}
	}
	if given.played == "" {
		return nil
	}
	event := vireo.NewEvent(vireov1.EventKind_EVENT_KIND_FINISH, given.viewers[0], given.played)
	_, err := client.RecordEvents(ctx, &vireov1.RecordEventsRequest{Events: []*vireov1.Event{event}})
	return err
}

func printPages(ctx context.Context, client *vireo.Client, given options) error {
	printed := 0
	for response, err := range client.Pages(ctx, given.request()) {
		if err != nil {
			return err
		}
		if err := printLine(slateOf(response)); err != nil {
			return err
		}
		if printed++; printed == given.pages {
			break
		}
	}
	return nil
}

func printBatch(ctx context.Context, client *vireo.Client, given options) error {
	request := &vireov1.BatchRecommendRequest{ViewerIds: given.viewers, PageSize: &given.pageSize, Filter: given.filter()}
	for response, err := range client.Batch(ctx, request) {
		if err != nil {
			return err
		}
		slate := slateOf(response.Slate)
		slate.ViewerID = response.ViewerId
		if err := printLine(slate); err != nil {
			return err
		}
	}
	return nil
}

// explain returns code and message, then each invalid field, and the delay before a retry.
func explain(err error) string {
	var failed *vireo.Error
	if !errors.As(err, &failed) {
		return "error: " + err.Error()
	}
	lines := []string{fmt.Sprintf("%s: %s", failed.CodeName(), failed.Message)}
	for _, each := range failed.Violations {
		lines = append(lines, fmt.Sprintf("  %s: %s", each.Field, each.Description))
	}
	if failed.RetryAfter != nil {
		lines = append(lines, fmt.Sprintf("  retry after %d ms", failed.RetryAfter.Milliseconds()))
	}
	return strings.Join(lines, "\n")
}
