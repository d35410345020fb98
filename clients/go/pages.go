package main

import vireov1 "vireo.example/client/build/gen/vireo/v1"

// slateRequest returns the request for the first page of the viewer's slate.
func slateRequest(given options) *vireov1.RecommendRequest {
	return &vireov1.RecommendRequest{ViewerId: given.viewers[0], PageSize: &given.pageSize, Filter: given.filter()}
}

// printPages prints the pages of a slate.
func printPages(client vireov1.RecommendationServiceClient, given options) error {
	request := slateRequest(given)
	for page := 0; page < given.pages; page++ {
		response, err := recommend(client, request, given)
		if err != nil {
			return err
		}
		if err := printLine(slateOf(response)); err != nil {
			return err
		}
		// The same request with the token of the last page gets the next, without a video of those before.
		request.PageToken = response.NextPageToken
		if request.PageToken == "" {
			break
		}
	}
	return nil
}

func recommend(client vireov1.RecommendationServiceClient, request *vireov1.RecommendRequest, given options) (*vireov1.RecommendResponse, error) {
	within, cancel := given.deadline()
	defer cancel()
	return client.Recommend(within, request)
}
