// Command recommend requests pages of a slate from a Vireo stack and prints each as JSON; before that it
// may record what the viewer has played.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	vireov1 "vireo.example/client/build/gen/vireo/v1"
)

// The slate as it is printed.
type slate struct {
	ReleaseID    string   `json:"release_id"`
	Degradations []string `json:"degradations"`
	Items        []item   `json:"items"`
}

type item struct {
	VideoID  string  `json:"video_id"`
	Position int32   `json:"position"`
	Score    float32 `json:"score"`
}

func main() {
	pageSize := flag.Int("page-size", 10, "how many videos, 1 to 500")
	timeout := flag.Float64("timeout", 1, "seconds for the call, all tries included")
	authority := flag.String("tls-ca", "", "use TLS and trust the authorities in this PEM `file` (or VIREO_CA)")
	played := flag.String("played", "", "record first that the viewer played this `video` to its end")
	tag := flag.String("tag", "", "only videos with this `tag`")
	pages := flag.Int("pages", 1, "number of pages to print")
	token := flag.String("token", "", "bearer `token` to send; needs TLS (or VIREO_TOKEN)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: recommend [flags] HOST:PORT VIEWER")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}

	target := Target{
		Address:   flag.Arg(0),
		Authority: orElse(*authority, os.Getenv("VIREO_CA")),
		Token:     orElse(*token, os.Getenv("VIREO_TOKEN")),
	}
	// One connection serves any number of concurrent calls: a server creates one and reuses it.
	connection, err := target.Connect()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	defer connection.Close()
	client := vireov1.NewRecommendationServiceClient(connection)

	limit := time.Duration(*timeout * float64(time.Second))
	if *played != "" {
		within, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := record(within, connection, flag.Arg(1), *played); err != nil {
			fmt.Fprintln(os.Stderr, Explain(err))
			os.Exit(1)
		}
	}
	size := int32(*pageSize)
	request := &vireov1.RecommendRequest{ViewerId: flag.Arg(1), PageSize: &size, Filter: tagged(*tag)}
	for page := 0; page < *pages; page++ {
		response, err := recommend(client, request, limit)
		if err != nil {
			fmt.Fprintln(os.Stderr, Explain(err))
			os.Exit(1)
		}
		if err := json.NewEncoder(os.Stdout).Encode(slateOf(response)); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		// The same request with the token of the last page gets the next, without a video of those before.
		request.PageToken = response.NextPageToken
		if request.PageToken == "" {
			break
		}
	}
}

func recommend(client vireov1.RecommendationServiceClient, request *vireov1.RecommendRequest, limit time.Duration) (*vireov1.RecommendResponse, error) {
	within, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return client.Recommend(within, request)
}

// tagged returns a filter of the videos with a tag; none if it is empty.
func tagged(tag string) *vireov1.Filter {
	if tag == "" {
		return nil
	}
	condition := &vireov1.Condition{Attribute: "tag", AnyOf: []string{tag}}
	return &vireov1.Filter{Conditions: []*vireov1.Condition{condition}}
}

// record tells the stack that a viewer played a video. An event counts once by its id, however often it
// is sent: keep both until the call has succeeded.
func record(within context.Context, connection *grpc.ClientConn, viewer, video string) error {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	event := &vireov1.Event{
		EventId:  hex.EncodeToString(id),
		ViewerId: viewer,
		Kind:     vireov1.EventKind_EVENT_KIND_FINISH,
		VideoId:  video,
		Time:     timestamppb.Now(),
	}
	request := &vireov1.RecordEventsRequest{Events: []*vireov1.Event{event}}
	_, err := vireov1.NewEventServiceClient(connection).RecordEvents(within, request)
	return err
}

func slateOf(response *vireov1.RecommendResponse) slate {
	found := slate{ReleaseID: response.ReleaseId, Degradations: []string{}, Items: []item{}}
	for _, each := range response.Degradations {
		found.Degradations = append(found.Degradations, each.String())
	}
	for _, each := range response.Items {
		found.Items = append(found.Items, item{VideoID: each.VideoId, Position: each.Position, Score: each.Score})
	}
	return found
}

func orElse(text, other string) string {
	if text != "" {
		return text
	}
	return other
}
