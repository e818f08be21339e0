package tokens

import "container/heap"

// lru is a heap of the entries that may go to make room, by when they were read
// as far as the heap knows. Reads do not tell it: it asks those that are on top.
// Store.mu guards it.
type lru []*entry

// unranked is the rank of an entry that is in no heap.
const unranked = -1

func (l lru) Len() int           { return len(l) }
func (l lru) Less(i, j int) bool { return l[i].asOf < l[j].asOf }

func (l lru) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].rank, l[j].rank = i, j
}

// Push is for heap.Push.
func (l *lru) Push(e any) {
	e.(*entry).rank = len(*l)
	*l = append(*l, e.(*entry))
}

// Pop is for heap.Remove.
func (l *lru) Pop() any {
	last := len(*l) - 1
	e := (*l)[last]
	(*l)[last], *l = nil, (*l)[:last]
	e.rank = unranked
	return e
}

func (l *lru) add(e *entry) {
	if e.rank == unranked {
		e.asOf = e.read.Load()
		heap.Push(l, e)
	}
}

func (l *lru) remove(e *entry) {
	if e.rank != unranked {
		heap.Remove(l, e.rank)
	}
}

// oldest returns the entry that was read least recently, nil if there is none.
func (l *lru) oldest() *entry {
	for range *l { // not for ever, while all are read all the time
		top := (*l)[0]
		read := top.read.Load()
		if read == top.asOf {
			return top
		}
		top.asOf = read
		heap.Fix(l, 0)
	}
	if len(*l) == 0 {
		return nil
	}
	return (*l)[0]
}
