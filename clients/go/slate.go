package main

import (
	"encoding/json"
	"os"

	vireov1 "vireo.example/client/build/gen/vireo/v1"
)

// The slate as it is printed.
type slate struct {
	ViewerID     string   `json:"viewerId,omitempty"` // only in a batch
	ReleaseID    string   `json:"releaseId"`
	Degradations []string `json:"degradations"`
	Items        []item   `json:"items"`
}

type item struct {
	VideoID  string  `json:"videoId"`
	Position int32   `json:"position"`
	Score    float32 `json:"score"`
}

// videos is what the responses of Recommend and SimilarVideos have in common.
type videos interface {
	GetReleaseId() string
	GetDegradations() []vireov1.Degradation
	GetItems() []*vireov1.SlateItem
}

func slateOf(response videos) slate {
	found := slate{ReleaseID: response.GetReleaseId(), Degradations: namesOf(response.GetDegradations()), Items: []item{}}
	for _, each := range response.GetItems() {
		found.Items = append(found.Items, item{VideoID: each.VideoId, Position: each.Position, Score: each.Score})
	}
	return found
}

func namesOf(degradations []vireov1.Degradation) []string {
	names := []string{}
	for _, each := range degradations {
		names = append(names, each.String())
	}
	return names
}

// printLine prints a value as one line of JSON.
func printLine(value any) error {
	return json.NewEncoder(os.Stdout).Encode(value)
}
