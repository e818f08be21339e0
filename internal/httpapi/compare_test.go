package httpapi_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	// workers are the goroutines that load either side, each with a connection of
	// its own.
	workers = 8
	// turn is how long a side is loaded before the other has its turn.
	turn = 50 * time.Millisecond
)

// side is one of the two that are compared: it makes the function that a worker
// calls over and over.
type side struct {
	name  string
	start func(testing.TB) (call func() error)
}

// compare loads ours and the reference in turns, each first in every other round,
// so that what else the machine does falls on both. An iteration is a round. It
// reports the median rate of each, and of the ratios of each round the median and
// the quartiles; the median ratio by processor time, client and upstream included,
// which is the one to believe when the machine is busy; and the median latencies,
// over all of a side's turns.
func compare(b *testing.B, ours, reference side) {
	sides := []*load{newLoad(b, ours), newLoad(b, reference)}
	for _, l := range sides { // warms up
		l.run(b)
		l.took = nil
	}
	var rates [2][]float64
	var ratios, cpuRatios []float64
	for round := 0; b.Loop(); round++ {
		var now [2]sample
		for i := range sides {
			i ^= round & 1
			now[i] = sides[i].run(b)
			rates[i] = append(rates[i], now[i].perSecond)
		}
		ratios = append(ratios, now[0].perSecond/now[1].perSecond)
		cpuRatios = append(cpuRatios, now[0].perCPUSecond/now[1].perCPUSecond)
	}
	b.ReportMetric(0, "ns/op") // of a round: it says nothing
	for i, s := range []side{ours, reference} {
		b.ReportMetric(quantile(rates[i], 0.5), s.name+"/s")
		b.ReportMetric(quantile(sides[i].took, 0.5), s.name+"-p50-us")
		b.ReportMetric(quantile(sides[i].took, 0.99), s.name+"-p99-us")
	}
	b.ReportMetric(quantile(ratios, 0.5), "ratio")
	b.ReportMetric(quantile(ratios, 0.25), "ratio-q1")
	b.ReportMetric(quantile(ratios, 0.75), "ratio-q3")
	b.ReportMetric(quantile(cpuRatios, 0.5), "ratio-by-cpu")
}

func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

// sample is what one turn did.
type sample struct{ perSecond, perCPUSecond float64 }

type load struct {
	calls []func() error

	mu   sync.Mutex
	took []float64 // latencies, in microseconds
}

func newLoad(tb testing.TB, s side) *load {
	l := &load{}
	for range workers {
		l.calls = append(l.calls, s.start(tb))
	}
	return l
}

// run loads the side for one turn.
func (l *load) run(tb testing.TB) sample {
	var calls atomic.Int64
	var running sync.WaitGroup
	begin, cpu := time.Now(), cpuTime(tb)
	for _, call := range l.calls {
		running.Go(func() {
			var took []float64
			for now := time.Now(); now.Sub(begin) < turn; {
				if err := call(); err != nil {
					tb.Error(err)
					return
				}
				after := time.Now()
				took = append(took, float64(after.Sub(now).Nanoseconds())/1e3)
				now = after
			}
			calls.Add(int64(len(took)))
			l.mu.Lock()
			defer l.mu.Unlock()
			l.took = append(l.took, took...)
		})
	}
	running.Wait()
	n := float64(calls.Load())
	return sample{n / time.Since(begin).Seconds(), n / (cpuTime(tb) - cpu).Seconds()}
}

// cpuTime is what this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
