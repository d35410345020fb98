package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	vireo "github.com/vireo-recommender/vireo-go"
	"github.com/vireo-recommender/vireo-go/vireov1"
)

// options are those of the command line and the environment.
type options struct {
	address   string
	authority string // PEM file of trusted authorities; plaintext if empty
	token     string // bearer token, if not empty; needs TLS
	tokenFile string // file of the current token, read for every call
	viewers   []string
	pageSize  int32
	timeout   time.Duration
	played    string // video to record as played first; none if empty
	upsert    string // video to add first; none if empty
	remove    string // video to remove first; none if empty
	similar   string // video whose like to print; none if empty
	why       string // video to explain; none if empty
	tag       string // of all videos; any if empty
	pages     int
}

// parse reads the command line; it prints the usage and exits with 2 if it is invalid.
func parse() options {
	var given options
	text := flag.StringVar
	pageSize := flag.Int("page-size", 10, "maximum `number` of videos, 1 to 500")
	timeout := flag.Float64("timeout", 1, "`seconds` for a call, or without a slate of a batch, retries included")
	flag.IntVar(&given.pages, "pages", 1, "`number` of pages to print")
	text(&given.authority, "tls-ca", os.Getenv("VIREO_CA"), "use TLS and trust the authorities in this PEM `file` (or VIREO_CA)")
	text(&given.token, "token", "", "bearer `token` to send; needs TLS (or VIREO_TOKEN)")
	text(&given.tokenFile, "token-file", "", "`file` of the token, read again for every call")
	text(&given.played, "played", "", "record first that the viewer played this `video` to its end")
	text(&given.upsert, "upsert", "", "add this `video` to the catalogue first")
	text(&given.remove, "remove", "", "remove this `video` from the catalogue first")
	text(&given.tag, "tag", "", "only videos with this `tag`")
	text(&given.similar, "similar", "", "print the videos like this `video`, for no viewer")
	text(&given.why, "why", "", "print why this `video` is on the viewer's page, or isn't")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: recommend [flags] HOST:PORT [VIEWER...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	viewers := max(flag.NArg()-1, 0)
	ofOne := given.why != "" || given.played != "" || given.pages != 1
	if (given.similar != "") != (viewers == 0) || (ofOne && viewers != 1) || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if given.token == "" {
		given.token = os.Getenv("VIREO_TOKEN") // not as a default, which the usage would show
	}
	given.address, given.viewers = flag.Arg(0), flag.Args()[1:]
	given.pageSize, given.timeout = int32(*pageSize), time.Duration(*timeout*float64(time.Second))
	return given
}

// client returns a client of the stack.
func (given options) client() (*vireo.Client, error) {
	options := vireo.Options{Timeout: given.timeout, Patience: given.timeout}
	if given.authority != "" {
		trusted, err := vireo.TrustFile(given.authority)
		if err != nil {
			return nil, err
		}
		options.TLS = trusted
	}
	if given.tokenFile != "" {
		options.Token = func(context.Context) (string, error) {
			token, err := os.ReadFile(given.tokenFile)
			return strings.TrimSpace(string(token)), err
		}
	} else if given.token != "" {
		options.Token = vireo.StaticToken(given.token)
	}
	return vireo.New(given.address, options)
}

// request returns the request for the first page of the viewer's slate.
func (given options) request() *vireov1.RecommendRequest {
	return &vireov1.RecommendRequest{ViewerId: given.viewers[0], PageSize: &given.pageSize, Filter: given.filter()}
}

// filter returns a filter of the videos with the tag; none if it is empty.
func (given options) filter() *vireov1.Filter {
	if given.tag == "" {
		return nil
	}
	condition := &vireov1.Condition{Attribute: "tag", AnyOf: []string{given.tag}}
	return &vireov1.Filter{Conditions: []*vireov1.Condition{condition}}
}
