package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/forseti-go/forseti/cmd/forseti/payment"
)

// How long the payment service may take to say where it listens, and to end when its input has.
const (
	greetWait = 10 * time.Second
	endWait   = 3 * time.Second
)

// process is the payment service as a child of this process. It holds the child's standard input open: when this
// process goes away, in whatever way, the child does. Its methods are called by one goroutine at a time.
type process struct {
	command []string
	seed    uint64

	cmd   *exec.Cmd
	stdin io.Closer
	url   string
	ended chan struct{} // closed when the child is gone and was waited for
}

// start runs the service on a loopback address and returns when it listens.
func (p *process) start(ctx context.Context, listen string) error {
	args := append(append([]string{}, p.command[1:]...), "--listen", listen, "--seed", fmt.Sprint(p.seed))
	cmd := exec.Command(p.command[0], args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("payment service: %w", err)
	}
	greeting := make(chan string, 1)
	var complaint strings.Builder // read when the child is gone
	cmd.Stdout, cmd.Stderr = &firstLine{line: greeting}, &complaint
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("payment service: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the child, which stop and kill see to
		defer close(ended)
		_ = cmd.Wait()
	}()
	p.cmd, p.stdin, p.ended = cmd, stdin, ended
	limit, cancel := context.WithTimeout(ctx, greetWait)
	defer cancel()
	select {
	case line := <-greeting:
		url, ok := strings.CutPrefix(line, payment.Greeting)
		if !ok {
			p.kill()
			return fmt.Errorf("payment service: it said %q, not where it listens", clip(line, 80))
		}
		p.url = url
		return nil
	case <-ended:
		p.cmd = nil
		return fmt.Errorf("payment service: it ended at once: %s", clip(strings.TrimSpace(complaint.String()), 200))
	case <-limit.Done():
		p.kill()
		return fmt.Errorf("payment service: it does not say where it listens: %w", limit.Err())
	}
}

// restart runs the service again where it listened before.
func (p *process) restart(ctx context.Context) error {
	var err error
	for range 5 { // somebody else may have the port for a moment
		if err = p.start(ctx, strings.TrimPrefix(p.url, "http://")); err == nil || ctx.Err() != nil {
			return err
		}
		if !sleep(ctx, 200*time.Millisecond) {
			break
		}
	}
	return err
}

// kill ends the service as a crash would, and waits until it is gone.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // an error means that it is gone already
	<-p.ended
	_ = p.stdin.Close()
	p.cmd = nil
}

// stop ends the service in the orderly way, or else by force.
func (p *process) stop() error {
	if p.cmd == nil {
		return nil
	}
	_ = p.stdin.Close()
	t := time.NewTimer(endWait)
	defer t.Stop()
	select {
	case <-p.ended:
		p.cmd = nil
		return nil
	case <-t.C:
		p.kill()
		return errors.New("payment service: it did not end with its input and was killed")
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// firstLine passes on the first line written to it and drops the rest.
type firstLine struct {
	line chan<- string
	got  strings.Builder
	done bool
}

func (f *firstLine) Write(b []byte) (int, error) {
	if !f.done {
		f.got.Write(b)
		if s := bufio.NewScanner(strings.NewReader(f.got.String())); strings.Contains(f.got.String(), "\n") && s.Scan() {
			f.line <- s.Text()
			f.done = true
		}
	}
	return len(b), nil
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
