package vireo

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What errors.Is finds in an [*Error], by its code.
var (
	ErrInvalidRequest   = errors.New("the request is invalid")
	ErrNotFound         = errors.New("the video is not in the served release")
	ErrUnauthenticated  = errors.New("the token or certificate is missing or invalid")
	ErrPermissionDenied = errors.New("the token lacks the scope, or is for another viewer")
	ErrOverloaded       = errors.New("the server shed the request")
	ErrUnavailable      = errors.New("the server is unreachable or not serving")
	ErrDeadlineExceeded = errors.New("no response within the timeout")
)

var causes = map[codes.Code]error{
	codes.InvalidArgument:   ErrInvalidRequest,
	codes.NotFound:          ErrNotFound,
	codes.Unauthenticated:   ErrUnauthenticated,
	codes.PermissionDenied:  ErrPermissionDenied,
	codes.ResourceExhausted: ErrOverloaded,
	codes.Unavailable:       ErrUnavailable,
	codes.DeadlineExceeded:  ErrDeadlineExceeded,
}

// Error is a failed call.
type Error struct {
	// Code of gRPC.
	Code    codes.Code
	Message string
	// RequestID is the call's id in the server's logs.
	RequestID string
	// Violations are the invalid fields, at most 20.
	Violations []Violation
	// RetryAfter is the server's delay before a retry; nil if it sent none.
	RetryAfter *time.Duration

	status error
}

// Violation is one invalid field of a request.
type Violation struct {
	// Field is its path, for example excluded_video_ids[3].
	Field       string
	Description string
}

// Error returns the name of the code, the message and the request's id.
func (failed *Error) Error() string {
	return fmt.Sprintf("%s: %s (request %s)", failed.CodeName(), failed.Message, failed.RequestID)
}

// CodeName returns the name of the code as the protocol spells it, for example INVALID_ARGUMENT.
func (failed *Error) CodeName() string { return code.Code(failed.Code).String() }

// Is returns whether target is the cause that belongs to the code, for example [ErrOverloaded].
func (failed *Error) Is(target error) bool { return target != nil && causes[failed.Code] == target }

// Unwrap returns the error of gRPC.
func (failed *Error) Unwrap() error { return failed.status }

func errorOf(err error, trailer metadata.MD, id string) *Error {
	found := status.Convert(err)
	failed := &Error{Code: found.Code(), Message: found.Message(), RequestID: id, status: err}
	if ids := trailer.Get(RequestIDKey); len(ids) > 0 {
		failed.RequestID = ids[0]
	}
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, each := range detail.FieldViolations {
				failed.Violations = append(failed.Violations, Violation{Field: each.Field, Description: each.Description})
			}
		case *errdetails.RetryInfo:
			delay := detail.RetryDelay.AsDuration()
			failed.RetryAfter = &delay
		}
	}
	return failed
}
