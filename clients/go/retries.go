package vireo

import (
	_ "embed"
	"encoding/json"
	"time"

	"google.golang.org/grpc/codes"
)

// Version is the version of the client.
const Version = "0.1.0"

//go:embed retries.json
var retries []byte

// table says what is retried, and after how long; all clients share it.
var table = parseRetries()

type retryTable struct {
	ServiceConfig struct {
		MethodConfig []struct {
			Name        json.RawMessage `json:"name"`
			RetryPolicy map[string]any  `json:"retryPolicy"`
		} `json:"methodConfig"`
		RetryThrottling json.RawMessage `json:"retryThrottling"`
	} `json:"serviceConfig"`
	Jitter float64
	Repeat struct {
		Reads, Writes                     []codes.Code
		DelaySeconds, WriteTimeoutSeconds float64
	}
	Batch struct {
		Codes                                 []codes.Code
		MinPauseSeconds, MaxPauseSeconds      float64
		PatienceSeconds, StreamTimeoutSeconds float64
		MaxViewers                            int
	}
}

func parseRetries() (parsed retryTable) {
	if err := json.Unmarshal(retries, &parsed); err != nil {
		panic(err)
	}
	return parsed
}

func (table retryTable) maxAttempts() int {
	return int(table.ServiceConfig.MethodConfig[0].RetryPolicy["maxAttempts"].(float64))
}

// serviceConfig returns gRPC's service config, by which it retries calls that change nothing.
func (table retryTable) serviceConfig(attempts int) string {
	if attempts == 1 {
		return "{}"
	}
	config := parseRetries().ServiceConfig
	config.MethodConfig[0].RetryPolicy["maxAttempts"] = attempts
	text, err := json.Marshal(config)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func seconds(count float64) time.Duration { return time.Duration(count * float64(time.Second)) }
