package images

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// NamespaceHeader carries the namespace of a ttrpc call, as in containerd's own clients.
	NamespaceHeader = "containerd-namespace-ttrpc"
	// DatabaseHeader carries the path of this containerd's database. A daemon that stands in front of
	// another containerd, or of none, refuses the call: its images are not this containerd's.
	DatabaseHeader = "containerd-database"

	// After a failure containerd answers alone for this long. Then one call tries the daemon again.
	pause = time.Second
)

// Call is one request to the daemon.
type Call func(context.Context, *ttrpc.Client) error

// Daemon is the connection to the lmdb-images daemon. It is safe for concurrent use.
type Daemon struct {
	address  string
	database string
	timeout  time.Duration

	mu     sync.Mutex
	client *ttrpc.Client // nil while not connected
	state  state
	retry  time.Time // while down: when the next call may try
	trying bool      // while down or unknown: a call is trying
}

type state int

const (
	unknown state = iota // no call has been made
	up
	down
)

// NewDaemon returns a Daemon that connects at the first call.
//
// address is the path of the daemon's ttrpc socket, database the path of this containerd's meta.db,
// and timeout bounds a call with its connect.
func NewDaemon(address, database string, timeout time.Duration) *Daemon {
	return &Daemon{address: address, database: database, timeout: timeout}
}

// Ask makes one call. It returns true if the daemon has answered: with success, or with NOT_FOUND,
// which is then the error.
//
// Any other error is left to containerd: it has the same reason to give that error, or the error is
// about the daemon alone.
func (d *Daemon) Ask(ctx context.Context, namespace string, call Call) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	client, ok := d.acquire(limited)
	if !ok {
		return false, nil
	}
	metadata := ttrpc.MD{}
	metadata.Set(NamespaceHeader, namespace)
	metadata.Set(DatabaseHeader, d.database)
	err := call(ttrpc.WithMetadata(limited, metadata), client)

	code := status.Code(err)
	switch {
	case err == nil || code == codes.NotFound:
		d.succeeded(ctx)
		return true, err
	case ctx.Err() != nil:
		// The caller has left or its own deadline is over. That says nothing about the daemon.
		d.released()
	case broken(err, code):
		d.failed(ctx, client, err)
	default:
		d.succeeded(ctx)
		log.G(ctx).WithError(err).Debug("lmdb-images: containerd answers this call itself")
	}
	return false, nil
}

// broken tells an error of the connection or of the whole daemon from one of this call.
func broken(err error, code codes.Code) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ttrpc.ErrClosed) {
		return true
	}
	switch code {
	case codes.OK, codes.InvalidArgument, codes.ResourceExhausted, codes.OutOfRange, codes.DataLoss:
		return false
	default:
		return true
	}
}

// acquire returns the connection, or false while containerd is to answer alone. While the daemon is
// not known to be up, one call at a time tries it.
func (d *Daemon) acquire(ctx context.Context) (*ttrpc.Client, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != up {
		if d.trying || time.Now().Before(d.retry) {
			return nil, false
		}
	}
	if d.client == nil {
		// A connect to a unix socket does not wait for the other process, unless its backlog is full.
		// The context bounds that.
		connection, err := (&net.Dialer{}).DialContext(ctx, "unix", d.address)
		if err != nil {
			d.setDown(ctx, err)
			return nil, false
		}
		d.client = ttrpc.NewClient(connection)
	}
	d.trying = d.state != up
	return d.client, true
}

func (d *Daemon) succeeded(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trying = false
	if d.state != up {
		d.state = up
		log.G(ctx).WithField("address", d.address).Info("lmdb-images answers reads of images")
	}
}

func (d *Daemon) released() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trying = false
}

// failed closes the connection, so that a late answer finds no reader. Other calls on it end with
// ErrClosed, and containerd answers them.
func (d *Daemon) failed(ctx context.Context, client *ttrpc.Client, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trying = false
	if d.client != client {
		// Another call has closed it, and perhaps a newer one works.
		return
	}
	d.client = nil
	_ = client.Close()
	d.setDown(ctx, err)
}

// setDown starts the pause. The caller holds the lock.
func (d *Daemon) setDown(ctx context.Context, err error) {
	d.retry = time.Now().Add(pause)
	if d.state != down {
		d.state = down
		log.G(ctx).WithError(err).WithField("address", d.address).
			Warn("lmdb-images does not answer: containerd answers reads of images itself")
	}
}
