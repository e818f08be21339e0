package proxy

import (
	"maps"
	"net/http"
	"sync"
	"time"
)

// patientWriter lifts the deadlines that the server sets for requests and answers
// of a known size. A call may go on for as long as the caller gives or takes what there
// is, and an upstream that has begun its answer may be silent for as long as the caller
// waits: that is how events are streamed.
type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stalled time.Duration
	// missing is how much of a small answer was not written yet, in bytes. 0: the
	// answer is flushed by somebody else.
	missing int64
	status  int // of an answer that has not begun yet. 0: there is none
}

func newPatientWriter(w http.ResponseWriter, stalled time.Duration) *patientWriter {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
	return &patientWriter{ResponseWriter: w, control: control, stalled: stalled}
}

// patience gives the caller its time to take what is written next.
func (w *patientWriter) patience() {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.stalled))
}

// WriteHeader sets the status of an answer. It begins with the first of its body, or when
// it is flushed: an upstream can die before that.
func (w *patientWriter) WriteHeader(status int) { w.status = status }

// drop forgets an answer, and reports whether it had not begun. Of its header what this
// proxy wants of the connection stays.
func (w *patientWriter) drop() bool {
	if w.status == 0 {
		return false
	}
	w.status, w.missing = 0, 0
	maps.DeleteFunc(w.Header(), func(name string, _ []string) bool { return name != "Connection" })
	return true
}

// begin begins the answer, with the header that the upstream gave it.
func (w *patientWriter) begin() {
	if w.status == 0 {
		return
	}
	header, status := w.Header(), w.status
	w.status = 0
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // the server would make one up from the body
	}
	if links := header["Link"]; links != nil {
		// As Okta writes it. Its SDK for Java finds no other, where to all others it is the
		// same (RFC 9110 section 5.1).
		delete(header, "Link")
		header["link"] = links
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes p. A small answer that is whole is left to the server to send in one
// piece; a part of one goes at once.
func (w *patientWriter) Write(p []byte) (int, error) {
	w.begin()
	w.patience()
	n, err := w.ResponseWriter.Write(p)
	if w.missing > 0 {
		if w.missing -= int64(n); w.missing > 0 && err == nil {
			err = w.control.Flush()
		}
	}
	return n, err
}

// FlushError sends what there is, if only the header.
func (w *patientWriter) FlushError() error {
	w.begin()
	return w.control.Flush()
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// bufferSize is how much of an answer is copied at a time, in bytes.
const bufferSize = 32 << 10

// buffers is an httputil.BufferPool.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buffer[:]
	}
	return new([bufferSize]byte)[:]
}

func (b *buffers) Put(buffer []byte) { b.pool.Put((*[bufferSize]byte)(buffer)) }
