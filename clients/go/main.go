// Command recommend requests slates from a Vireo stack and prints each as JSON; before that it may record
// what the viewer has played. It also asks for the videos like one, and why a video is on a page or isn't.
package main

import (
	"fmt"
	"os"

	"google.golang.org/grpc"

	vireov1 "vireo.example/client/build/gen/vireo/v1"
)

func main() {
	given := parse()
	// One connection serves any number of concurrent calls: a server creates one and reuses it.
	connection, err := given.target.Connect()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	defer connection.Close()
	if err := run(connection, given); err != nil {
		fmt.Fprintln(os.Stderr, Explain(err))
		os.Exit(1)
	}
}

func run(connection *grpc.ClientConn, given options) error {
	if given.played != "" {
		if err := record(vireov1.NewEventServiceClient(connection), given); err != nil {
			return err
		}
	}
	client := vireov1.NewRecommendationServiceClient(connection)
	switch {
	case given.similar != "":
		return printSimilar(client, given)
	case given.why != "":
		return printWhy(client, given)
	case len(given.viewers) > 1:
		return printBatch(client, given)
	default:
		return printPages(client, given)
	}
}
