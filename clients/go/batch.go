package main

import (
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	vireov1 "vireo.example/client/build/gen/vireo/v1"
)

const (
	maxResumes  = 3 // in a row, without a slate
	resumePause = 100 * time.Millisecond
)

// printBatch prints the slate of each viewer as it comes. A stream ends early if, for example, its gateway
// restarts: it is continued after the last slate, on another gateway. The timeout is for all of it.
func printBatch(client vireov1.RecommendationServiceClient, given options) error {
	within, cancel := given.deadline()
	defer cancel()
	request := &vireov1.BatchRecommendRequest{ViewerIds: given.viewers, PageSize: &given.pageSize, Filter: given.filter()}
	for resumes := 0; ; resumes++ {
		stream, err := client.BatchRecommend(within, request)
		for err == nil {
			var response *vireov1.BatchRecommendResponse
			if response, err = stream.Recv(); err != nil {
				break
			}
			request.ResumeToken, resumes = response.ResumeToken, 0
			slate := slateOf(response.Slate)
			slate.ViewerID = response.ViewerId
			err = printLine(slate)
		}
		if err == io.EOF {
			return nil
		}
		if status.Code(err) != codes.Unavailable || resumes == maxResumes {
			return err
		}
		time.Sleep(resumePause)
	}
}
