package main

import (
	"encoding/json"
	"os"

	"github.com/vireo-recommender/vireo-go/vireov1"
)

// slate is a slate as it is printed.
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

// explanation is an explanation as it is printed.
type explanation struct {
	ReleaseID    string   `json:"releaseId"`
	Degradations []string `json:"degradations"`
	VideoID      string   `json:"videoId"`
	LostAt       string   `json:"lostAt,omitempty"` // absent if it is on the page
	Reason       string   `json:"reason"`
	Position     int32    `json:"position"` // 0 if it has none
	Score        float32  `json:"score"`
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

func explanationOf(video string, response *vireov1.ExplainVideoResponse) explanation {
	found := explanation{
		ReleaseID:    response.ReleaseId,
		Degradations: namesOf(response.Degradations),
		VideoID:      video,
		Reason:       response.Reason,
		Position:     response.Position,
		Score:        response.Score,
	}
	if response.LostAt != vireov1.LostAt_LOST_AT_UNSPECIFIED {
		found.LostAt = response.LostAt.String()
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
