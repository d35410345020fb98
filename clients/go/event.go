package main

import (
	"crypto/rand"
	"encoding/hex"

	"google.golang.org/protobuf/types/known/timestamppb"

	vireov1 "vireo.example/client/build/gen/vireo/v1"
)

// record tells the stack that a viewer played a video. An event counts once by its id, however often it
// is sent: keep both until the call has succeeded.
func record(client vireov1.EventServiceClient, given options) error {
	within, cancel := given.deadline()
	defer cancel()
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	event := &vireov1.Event{
		EventId:  hex.EncodeToString(id),
		ViewerId: given.viewers[0],
		Kind:     vireov1.EventKind_EVENT_KIND_FINISH,
		VideoId:  given.played,
		Time:     timestamppb.Now(),
	}
	_, err := client.RecordEvents(within, &vireov1.RecordEventsRequest{Events: []*vireov1.Event{event}})
	return err
}
