package tokens

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// What a hit costs, by how many tokens are held.
func BenchmarkHit(b *testing.B) {
	for _, entries := range []int{1, 1_000, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			vault := &bank{life: time.Hour}
			s := New(Config{Exchanger: vault})
			defer s.Close()
			keys := numbered(entries)
			ctx := b.Context()
			for _, key := range keys {
				if _, err := s.Get(ctx, key, Want{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := s.Get(ctx, keys[i%len(keys)], Want{}); err != nil {
						b.Error(err)
					}
				}
			})
			if n := vault.fetches(); n != entries {
				b.Errorf("%d fetches, want %d", n, entries)
			}
		})
	}
}

// What 5,000 callers on a cold key cost, with the millisecond that the fetch
// takes.
func BenchmarkStampede(b *testing.B) {
	const many = 5_000
	vault := &bank{life: time.Hour, takes: time.Millisecond}
	s := New(Config{Exchanger: vault})
	defer s.Close()
	keys := numbered(b.N)
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for _, key := range keys {
		var callers sync.WaitGroup
		for range many {
			callers.Go(func() {
				if _, err := s.Get(ctx, key, Want{}); err != nil {
					b.Error(err)
				}
			})
		}
		callers.Wait()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/caller")
	if n := vault.fetches(); n != b.N {
		b.Errorf("%d fetches, want %d", n, b.N)
	}
}
