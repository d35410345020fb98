package main

import vireov1 "vireo.example/client/build/gen/vireo/v1"

// The explanation as it is printed.
type explanation struct {
	ReleaseID    string   `json:"releaseId"`
	Degradations []string `json:"degradations"`
	VideoID      string   `json:"videoId"`
	LostAt       string   `json:"lostAt,omitempty"` // absent if it is on the page
	Reason       string   `json:"reason"`
	Position     int32    `json:"position"` // 0 if it has none
	Score        float32  `json:"score"`
}

// printWhy prints at which stage of the viewer's slate a video was lost, and why, or its position.
func printWhy(client vireov1.RecommendationServiceClient, given options) error {
	within, cancel := given.deadline()
	defer cancel()
	request := &vireov1.ExplainVideoRequest{Request: slateRequest(given), VideoId: given.why}
	response, err := client.ExplainVideo(within, request)
	if err != nil {
		return err
	}
	found := explanation{
		ReleaseID:    response.ReleaseId,
		Degradations: namesOf(response.Degradations),
		VideoID:      given.why,
		Reason:       response.Reason,
		Position:     response.Position,
		Score:        response.Score,
	}
	if response.LostAt != vireov1.LostAt_LOST_AT_UNSPECIFIED {
		found.LostAt = response.LostAt.String()
	}
	return printLine(found)
}
