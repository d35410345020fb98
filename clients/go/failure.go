package main

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Explain describes a failed call: code and message, then each invalid field, and the delay before a
// retry if there is one.
func Explain(err error) string {
	failed := status.Convert(err)
	lines := []string{fmt.Sprintf("%s: %s", code.Code(failed.Code()), failed.Message())}
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				lines = append(lines, fmt.Sprintf("  %s: %s", violation.Field, violation.Description))
			}
		case *errdetails.RetryInfo:
			lines = append(lines, fmt.Sprintf("  retry after %d ms", detail.RetryDelay.AsDuration().Milliseconds()))
		}
	}
	return strings.Join(lines, "\n")
}
