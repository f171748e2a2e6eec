package cluster

// class is a set of lanes that shares one weight.
type class int

const (
	highClass class = iota
	normalClass
	lowClass
	orderedClass // all partitions together
	classes
)

func (l lane) class() class { return class(min(l, firstPartition)) }

// strides are the inverses of the weights 8 : 4 : 1, and 4 for all partitions together.
var strides = [classes]int64{1, 2, 8, 2}

// shares divides slots among classes of lanes by weight, so that none starves, and gives what one cannot use to the
// others. It is stride scheduling (C. A. Waldspurger and W. E. Weihl, "Stride Scheduling: Deterministic
// Proportional-Share Resource Management", 1995): each slot goes to the class with the lowest pass, which then moves on
// by its stride.
type shares struct {
	pass   [classes]int64
	active [classes]bool
	now    int64 // the pass of whoever was served last
}

// activate tells which classes have tasks. One that had none for a while has no claim to what it did not use.
func (s *shares) activate(c class, has bool) {
	if has && !s.active[c] {
		s.pass[c] = max(s.pass[c], s.now)
	}
	s.active[c] = has
}

// divide gives each class at most as many slots as it wants, and charges it for them.
func (s *shares) divide(slots int, want [classes]int) (got [classes]int) {
	for ; slots > 0; slots-- {
		next := class(-1)
		for c := range classes {
			if got[c] < want[c] && (next < 0 || s.pass[c] < s.pass[next]) {
				next = c
			}
		}
		if next < 0 {
			break
		}
		s.now = max(s.now, s.pass[next])
		s.charge(next, 1)
		got[next]++
	}
	return got
}

// charge counts slots that a class got without being asked, or, below 0, that it did not use.
func (s *shares) charge(c class, n int) { s.pass[c] += int64(n) * strides[c] }
