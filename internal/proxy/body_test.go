package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// onConn is an answer's writer whose deadlines are a connection's.
type onConn struct {
	http.ResponseWriter
	net.Conn
}

func (w onConn) Write(p []byte) (int, error) { return w.ResponseWriter.Write(p) }

// newTestBody makes a body whose upstream is never given up.
func newTestBody(source io.Reader, length int64, control *http.ResponseController) *body {
	return newBody(source, length, control, &buffers{}, stalled, func() {})
}

// bodyOf returns a body of no known length that comes over a connection.
func bodyOf(t *testing.T) (b *body, server, caller net.Conn) {
	t.Helper()
	server, caller = net.Pipe()
	t.Cleanup(func() { _, _ = server.Close(), caller.Close() })
	return newTestBody(server, -1, http.NewResponseController(onConn{httptest.NewRecorder(), server})), server, caller
}

// A caller that sends no more is given up, and after that its connection is not held.
func TestStalledBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, server, caller := bodyOf(t)
		go func() { _, _ = io.WriteString(caller, "begun") }()
		start := time.Now()
		got, err := io.ReadAll(b.first())
		if string(got) != "begun" || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != stalled || !b.failed() {
			t.Errorf("read %q, %v after %s; want a time-out after %s", got, err, time.Since(start), stalled)
		}
		wantLingering(t, b, server)
	})
}

// An answer came, and the attempt still waits for more of the body.
func TestEndOfABodyThatIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, server, _ := bodyOf(t)
		first := b.first()
		read := make(chan error, 1)
		go func() {
			_, err := first.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		wantLingering(t, b, server)
		if err := <-read; !errors.Is(err, errOver) {
			t.Errorf("the attempt's Read ended with %v", err)
		}
	})
}

// wantLingering ends a body, and checks how long the server reads from the connection
// behind it.
func wantLingering(t *testing.T, b *body, server net.Conn) {
	t.Helper()
	start := time.Now()
	b.end()
	defer time.AfterFunc(time.Hour, func() { _ = server.Close() }).Stop() // of one that is held
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != lingering {
		t.Errorf("the server read for %s, until %v; want %s", time.Since(start), err, lingering)
	}
}

// What the first attempt reads when it is over is kept for the second, also where it
// would have passed what can be kept.
func TestAttemptThatReadsOn(t *testing.T) {
	const before = 60 << 10
	sent := bytes.Repeat([]byte("0123456789"), 7<<10)
	b := newTestBody(bytes.NewReader(sent), -1, http.NewResponseController(httptest.NewRecorder()))
	first := b.first()
	if _, err := io.ReadFull(first, make([]byte, before)); err != nil {
		t.Fatal(err)
	}
	second, err := b.again()
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(first); len(rest) > 0 || !errors.Is(err, errOver) {
		t.Errorf("the first attempt read %d bytes more, %v; want it to be over", len(rest), err)
	}
	if got, err := io.ReadAll(second); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("the second attempt read %d bytes, %v; want all %d", len(got), err, len(sent))
	}
}

// What is kept has its bound, however the body comes in pieces, and nothing is held of
// what cannot be sent again.
func TestBoundOfABody(t *testing.T) {
	tests := []struct {
		name   string
		length int64 // that is announced
		size   int
		again  bool
	}{
		{"as much as is kept", -1, maxKept, true},
		{"one more", -1, maxKept + 1, false},
		{"one more, announced", maxKept + 1, maxKept + 1, false},
		{"half of what was announced", maxKept + 1, maxKept / 2, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			source := io.MultiReader(bytes.NewReader(make([]byte, 1)), bytes.NewReader(make([]byte, tt.size-1)))
			b := newTestBody(source, tt.length, http.NewResponseController(httptest.NewRecorder()))
			if n, err := io.Copy(io.Discard, b.first()); err != nil || n != int64(tt.size) {
				t.Fatalf("read %d bytes, %v", n, err)
			}
			if _, err := b.again(); (err == nil) != tt.again || !tt.again && cap(b.kept) > 0 {
				t.Errorf("again: %v, with %d bytes held", err, cap(b.kept))
			}
		})
	}
}

// Nobody reads from the caller for an attempt, or a call, that is over.
func TestReadThatIsOver(t *testing.T) {
	for name, end := range map[string]func(*body, io.Closer){
		"attempt": func(_ *body, attempt io.Closer) { _ = attempt.Close() },
		"call":    func(b *body, _ io.Closer) { b.end() },
	} {
		source := bytes.NewReader(make([]byte, 10))
		b := newTestBody(source, 10, http.NewResponseController(httptest.NewRecorder()))
		first := b.first()
		end(b, first)
		if n, err := first.Read(make([]byte, 1)); n > 0 || !errors.Is(err, errOver) || source.Len() != 10 {
			t.Errorf("%s: read %d bytes, %v; want it to be over", name, n, err)
		}
	}
}

// Once all of the body is there the caller may wait for the answer for as long as it
// takes: the server goes on reading, and must not take that for its leaving.
func TestDeadlineEndsWithTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server, caller := bodyOf(t)
		b := newTestBody(io.LimitReader(server, 4), 4, http.NewResponseController(onConn{httptest.NewRecorder(), server}))
		go func() {
			_, _ = io.WriteString(caller, "body")
			time.Sleep(2 * stalled)
			_, _ = io.WriteString(caller, "!")
		}()
		if got, err := io.ReadAll(b.first()); err != nil || string(got) != "body" {
			t.Fatalf("read %q, %v", got, err)
		}
		if _, err := server.Read(make([]byte, 1)); err != nil {
			t.Errorf("the server's read ended with %v", err)
		}
		b.end()
	})
}

// wire is an answer's writer that is a connection.
type wire struct {
	http.ResponseWriter
	net.Conn
}

func (w wire) Write(p []byte) (int, error) { return w.Conn.Write(p) }

// A caller that takes nothing of its answer is given up.
func TestStalledAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, caller := net.Pipe()
		defer caller.Close()
		w := newPatientWriter(wire{httptest.NewRecorder(), server}, stalled)
		defer time.AfterFunc(time.Hour, func() { _ = server.Close() }).Stop() // of one that is held
		for range 2 {
			start := time.Now()
			if _, err := w.Write([]byte("answer")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != stalled {
				t.Errorf("%v after %s; want a time-out after %s", err, time.Since(start), stalled)
			}
		}
	})
}

// Once the answer is there, what was kept is let go, and what the upstream has not
// read yet is still there for it.
func TestForgottenBody(t *testing.T) {
	sent := strings.Repeat("x", 1<<10)
	b := newTestBody(strings.NewReader(sent), -1, http.NewResponseController(httptest.NewRecorder()))
	first := b.first()
	if _, err := io.ReadFull(first, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	b.forget()
	if _, err := b.again(); !errors.Is(err, errNotKept) {
		t.Errorf("it can be sent again: %v", err)
	}
	if rest, err := io.ReadAll(first); err != nil || string(rest) != sent[100:] {
		t.Errorf("the rest is %d bytes, %v; want %d", len(rest), err, len(sent)-100)
	}
	if len(b.kept) > 0 {
		t.Errorf("%d bytes are kept", len(b.kept))
	}
}

// An upstream is late when it leaves what it was given, and not while it is the caller
// that has sent no more.
func TestLateUpstream(t *testing.T) {
	if answerTimeout >= stalled {
		t.Error("who has taken all of a body has less time to answer than answerTimeout")
	}
	tests := []struct {
		name     string
		answered bool
		takes    string
		late     bool
	}{
		{"nothing was asked for", false, "", false},
		{"some is taken", false, "be", true},
		{"all is taken that there is", false, "begun", false},
		{"the whole body is taken, and it does not answer", false, "begun, ended", true},
		{"it answers, and has asked for nothing", true, "", false},
		{"it answers, and takes some", true, "be", true},
		{"it answers, and takes all that there is", true, "begun", false},
		{"it answers, and takes the whole body", true, "begun, ended", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var gaveUp time.Duration
				source, caller := io.Pipe()
				control := http.NewResponseController(httptest.NewRecorder()) // the caller has all the time it wants
				b := newBody(source, -1, control, &buffers{}, stalled, func() { gaveUp = time.Since(start) })
				go func() {
					_, _ = io.WriteString(caller, "begun")
					if strings.HasSuffix(tt.takes, "ended") {
						_, _ = io.WriteString(caller, ", ended")
						_ = caller.Close()
					}
				}()
				first := b.first()
				if _, err := io.ReadFull(first, make([]byte, len(tt.takes))); err != nil {
					t.Fatal(err)
				}
				if tt.answered {
					b.heard()
				}
				if tt.takes != "" && tt.takes != "be" {
					go func() { _, _ = first.Read(make([]byte, 1)) }() // it asks for more
				}
				time.Sleep(10 * stalled)
				synctest.Wait()
				if want := map[bool]time.Duration{true: stalled}[tt.late]; gaveUp != want {
					t.Errorf("given up after %s, want %s", gaveUp, want)
				}
				_ = caller.Close()
				b.end()
			})
		})
	}
}

// An upstream that answers piece by piece may take its time with the body.
func TestUpstreamThatGivesIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := false
		control := http.NewResponseController(httptest.NewRecorder())
		b := newBody(strings.NewReader("body"), -1, control, &buffers{}, stalled, func() { late = true })
		if _, err := b.first().Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			time.Sleep(stalled - time.Second)
			b.heard()
		}
		b.end()
		time.Sleep(2 * stalled)
		if synctest.Wait(); late {
			t.Error("it was given up")
		}
	})
}

// To take the body once more an upstream has the same time once more.
func TestAnotherAttemptHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := false
		control := http.NewResponseController(httptest.NewRecorder())
		b := newBody(strings.NewReader("body"), -1, control, &buffers{}, stalled, func() { late = true })
		_, _ = b.first().Read(make([]byte, 1))
		time.Sleep(stalled - time.Second)
		if _, err := b.again(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(stalled - time.Second)
		if synctest.Wait(); late {
			t.Error("it was given up")
		}
		b.end()
	})
}

// An answer has its call let go of what was kept.
func TestAnswerForgetsTheBody(t *testing.T) {
	b := newTestBody(strings.NewReader(strings.Repeat("x", 1<<10)), -1, http.NewResponseController(httptest.NewRecorder()))
	if _, err := io.Copy(io.Discard, b.first()); err != nil || len(b.kept) == 0 {
		t.Fatalf("%d bytes are kept, %v", len(b.kept), err)
	}
	c := &call{
		proxy: New(Config{}), in: httptest.NewRequest(http.MethodPost, "/api", nil), upstream: &Upstream{Base: &url.URL{}},
		body: b, writer: newPatientWriter(httptest.NewRecorder(), stalled),
	}
	if err := c.modify(&http.Response{Header: http.Header{}, Body: http.NoBody}); err != nil || cap(b.kept) > 0 {
		t.Errorf("%d bytes are held, %v", cap(b.kept), err)
	}
	b.end()
}
