// Command measure compares Get and List of images on one containerd with the plugin: answered by the
// daemon, and by containerd itself. Both are asked in turn over the same connection, so that the
// machine's load meets both.
//
//	measure SOCKET NAMESPACE TURNS [TTRPC_SOCKET]
//
// It prints a Markdown table of medians in milliseconds. With the daemon's ttrpc socket it measures Get
// alone, and beside it what of the daemon's answer is the way to another process and back.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"lmdb-images/containerd-plugin/images"
)

// How long one side is asked before it is the other side's turn.
const turnTime = 200 * time.Millisecond

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 2 && arguments[0] == serveArgument {
		return serve(arguments[1])
	}
	if len(arguments) != 3 && len(arguments) != 4 {
		return fmt.Errorf("usage: measure SOCKET NAMESPACE TURNS [TTRPC_SOCKET]")
	}
	turns, err := strconv.Atoi(arguments[2])
	if err != nil || turns < 1 {
		return fmt.Errorf("TURNS must be a number above 0, not %q", arguments[2])
	}
	connection, err := grpc.NewClient("unix:"+arguments[0],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	client := imagesapi.NewImagesClient(connection)
	daemon := namespaces.WithNamespace(context.Background(), arguments[1])
	containerd := metadata.AppendToOutgoingContext(daemon, images.DirectHeader, "1")

	all, err := client.List(containerd, &imagesapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	if len(all.Images) == 0 {
		return fmt.Errorf("namespace %q of %s has no images", arguments[1], arguments[0])
	}
	name := all.Images[len(all.Images)/2].Name
	kinds := []struct {
		name string
		call func(context.Context) error
	}{
		{"Get", func(ctx context.Context) error {
			_, err := client.Get(ctx, &imagesapi.GetImageRequest{Name: name})
			return err
		}},
		{"List `name==`", func(ctx context.Context) error {
			_, err := client.List(ctx, &imagesapi.ListImagesRequest{Filters: []string{"name==" + strconv.Quote(name)}})
			return err
		}},
		{"List of all", func(ctx context.Context) error {
			_, err := client.List(ctx, &imagesapi.ListImagesRequest{})
			return err
		}},
	}

	ways := len(arguments) == 4
	if ways {
		kinds = kinds[:1]
	}
	fmt.Printf("| call, %d images | containerd, ms | with the plugin, ms | times as fast |\n|---|---|---|---|\n", len(all.Images))
	for _, kind := range kinds {
		var off, on []float64
		for range turns {
			for _, side := range []struct {
				ctx     context.Context
				samples *[]float64
			}{{containerd, &off}, {daemon, &on}} {
				milliseconds, err := turn(side.ctx, kind.call)
				if err != nil {
					return fmt.Errorf("%s: %w", kind.name, err)
				}
				*side.samples = append(*side.samples, milliseconds)
			}
		}
		plain, plugin := median(off), median(on)
		fmt.Printf("| %s | %.3f | %.3f | %.2f |\n", kind.name, plain, plugin, plain/plugin)
	}
	if ways {
		return measureWays(arguments[3], arguments[1], name, turns)
	}
	return nil
}

// turn returns the median milliseconds of the calls that end within turnTime, and of one if none does.
func turn(ctx context.Context, call func(context.Context) error) (float64, error) {
	if err := call(ctx); err != nil {
		return 0, err
	}
	var calls []float64
	for begin := time.Now(); len(calls) == 0 || time.Since(begin) < turnTime; {
		one := time.Now()
		if err := call(ctx); err != nil {
			return 0, err
		}
		calls = append(calls, time.Since(one).Seconds()*1000)
	}
	return median(calls), nil
}

func median(samples []float64) float64 {
	slices.Sort(samples)
	return samples[len(samples)/2]
}
