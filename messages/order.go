package messages

import "hash/fnv"

// Priority says how soon a task's turn comes among those of its type that wait. While there are tasks of all three,
// nodes take them 8 : 4 : 1, so that none starves.
type Priority string

// The priorities.
const (
	NormalPriority Priority = ""
	HighPriority   Priority = "high"
	LowPriority    Priority = "low"
)

// Partitions is how many lines the ordered tasks of one type wait in; see [Partition].
const Partitions = 64

// Partition is the line in which tasks of an ordering key wait, and the last token of their subject: the 32-bit FNV-1a
// hash (Fowler, Noll, Vo) of the key's bytes, as an unsigned number, modulo 64. Producers in other languages compute it
// alike: "" is 5, "a" is 44, "order-17" is 46,
// "customer-4711" is 47, "ключ" is 33.
func Partition(key string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	return int(h.Sum32() % Partitions)
}
