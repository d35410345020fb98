package main

import vireov1 "vireo.example/client/build/gen/vireo/v1"

// printSimilar prints the videos like one, for no viewer in particular.
func printSimilar(client vireov1.RecommendationServiceClient, given options) error {
	within, cancel := given.deadline()
	defer cancel()
	request := &vireov1.SimilarVideosRequest{VideoId: given.similar, PageSize: &given.pageSize, Filter: given.filter()}
	response, err := client.SimilarVideos(within, request)
	if err != nil {
		return err
	}
	return printLine(slateOf(response))
}
