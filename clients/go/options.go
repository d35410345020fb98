package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	vireov1 "vireo.example/client/build/gen/vireo/v1"
)

// options are those of the command line and the environment.
type options struct {
	target   Target
	viewers  []string
	pageSize int32
	timeout  time.Duration
	played   string // video to record as played first; none if empty
	similar  string // video whose like to print; none if empty
	why      string // video to explain; none if empty
	tag      string // of all videos; any if empty
	pages    int
}

// parse reads the command line; it prints the usage and exits with 2 if it is invalid.
func parse() options {
	pageSize := flag.Int("page-size", 10, "how many videos, 1 to 500")
	timeout := flag.Float64("timeout", 1, "seconds for the call, all tries included")
	authority := flag.String("tls-ca", "", "use TLS and trust the authorities in this PEM `file` (or VIREO_CA)")
	played := flag.String("played", "", "record first that the viewer played this `video` to its end")
	tag := flag.String("tag", "", "only videos with this `tag`")
	pages := flag.Int("pages", 1, "number of pages to print")
	similar := flag.String("similar", "", "print the videos like this `video`, for no viewer")
	why := flag.String("why", "", "print why this `video` is on the viewer's page, or isn't")
	token := flag.String("token", "", "bearer `token` to send; needs TLS (or VIREO_TOKEN)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: recommend [flags] HOST:PORT [VIEWER...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	viewers := max(flag.NArg()-1, 0)
	ofOne := *why != "" || *played != "" || *pages != 1
	if (*similar != "") != (viewers == 0) || (ofOne && viewers != 1) || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	return options{
		target: Target{
			Address:   flag.Arg(0),
			Authority: orElse(*authority, os.Getenv("VIREO_CA")),
			Token:     orElse(*token, os.Getenv("VIREO_TOKEN")),
		},
		viewers:  flag.Args()[1:],
		pageSize: int32(*pageSize),
		timeout:  time.Duration(*timeout * float64(time.Second)),
		played:   *played,
		similar:  *similar,
		why:      *why,
		tag:      *tag,
		pages:    *pages,
	}
}

// deadline returns the context of a call that begins now.
func (given options) deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), given.timeout)
}

// filter returns a filter of the videos with the tag; none if it is empty.
func (given options) filter() *vireov1.Filter {
	if given.tag == "" {
		return nil
	}
	condition := &vireov1.Condition{Attribute: "tag", AnyOf: []string{given.tag}}
	return &vireov1.Filter{Conditions: []*vireov1.Condition{condition}}
}

func orElse(text, other string) string {
	if text != "" {
		return text
	}
	return other
}
