package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// ReplayJobState is where a replay of many letters is.
type ReplayJobState string

// The states of a job.
const (
	JobRunning  ReplayJobState = "running"
	JobPaused   ReplayJobState = "paused"
	JobCanceled ReplayJobState = "canceled"
	JobDone     ReplayJobState = "done"
)

// Over reports whether nothing comes after the state.
func (s ReplayJobState) Over() bool { return s == JobCanceled || s == JobDone }

// ReplayJob is a replay of many letters, as all terminals see it. Whoever runs it writes its progress every few seconds; others
// pause, resume and cancel it by writing its state. Which letters it has sent is not in here but in the letters' own states, so that
// one that goes on where another stopped sends none twice.
type ReplayJob struct {
	ID       string         `json:"id"`
	By       string         `json:"by"`
	Filter   string         `json:"filter,omitempty"` // empty: all that were pending
	Pipeline string         `json:"pipeline,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Rate     float64        `json:"rate,omitempty"` // letters a second; 0: as fast as it goes
	Force    bool           `json:"force,omitempty"`
	Last     uint64         `json:"last"` // no letter after this sequence is taken
	State    ReplayJobState `json:"state"`
	Runner   string         `json:"runner"` // who runs it: another value, and the one before stops
	Total    int            `json:"total"`
	Sent     int            `json:"sent"`
	Failed   int            `json:"failed"` // could not be sent; they stay pending
	Started  time.Time      `json:"started"`
	At       time.Time      `json:"at"` // of the last write, by the server's clock; set on reading

	revision uint64
}

// JobStale is how long a job that is not over may be silent, paused or not, before somebody else may take it over.
const JobStale = 15 * time.Second

// StaleAt reports whether whoever runs it is gone, at a time of the server's clock.
func (j *ReplayJob) StaleAt(now time.Time) bool {
	return !j.State.Over() && now.Sub(j.At) > JobStale
}

func jobKey(id string) string { return "job." + SubjectToken(id) }

// StartReplayJob records a job, which gets an id and a runner. What runs it is the caller.
func (c *Cluster) StartReplayJob(ctx context.Context, j ReplayJob) (ReplayJob, error) {
	if j.By == "" {
		return j, &messages.FieldError{Field: "by", Value: j.By, Allowed: "who asks"}
	}
	j.ID, j.Runner, j.State, j.Started = messages.NewID(), messages.NewID(), JobRunning, c.Now().UTC()
	return c.putJob(ctx, j)
}

func (c *Cluster) putJob(ctx context.Context, j ReplayJob) (ReplayJob, error) {
	b, err := json.Marshal(j)
	if err == nil {
		j.revision, err = c.dlqState.put(ctx, jobKey(j.ID), b, j.revision)
	}
	if err != nil {
		return j, fmt.Errorf("replay job %s: %w", j.ID, err)
	}
	return j, nil
}

// ReplayJob reads a job; [messages.ErrNotFound] when there is none.
func (c *Cluster) ReplayJob(ctx context.Context, id string) (ReplayJob, error) {
	e, err := c.dlqState.get(ctx, jobKey(id))
	if err == nil && e.deleted {
		err = messages.ErrNotFound
	}
	if err != nil {
		return ReplayJob{}, fmt.Errorf("replay job %s: %w", id, err)
	}
	return readJob(e)
}

func readJob(e entry) (j ReplayJob, err error) {
	if err := json.Unmarshal(e.value, &j); err != nil {
		return j, fmt.Errorf("replay job %s: %w", e.key, err)
	}
	j.revision, j.At = e.revision, e.at
	return j, nil
}

// ReplayJobs lists the jobs there are, the newest first. They are kept as long as dead letters are.
func (c *Cluster) ReplayJobs(ctx context.Context) ([]ReplayJob, error) {
	entries, err := c.dlqState.all(ctx, "job.*")
	if err != nil {
		return nil, fmt.Errorf("replay jobs: %w", err)
	}
	jobs := []ReplayJob{}
	for _, e := range entries {
		if e.deleted {
			continue
		}
		j, err := readJob(e)
		if err != nil {
			c.log.Warn("malformed replay job", "key", e.key, "error", err)
			continue
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b ReplayJob) int { return b.Started.Compare(a.Started) })
	return jobs, nil
}

// OrderReplayJob pauses, resumes or cancels a job. One that is over is [messages.ErrConflict]. To resume one whose runner is gone makes the
// caller its runner: taken says that, and the job is then the caller's to run.
func (c *Cluster) OrderReplayJob(ctx context.Context, id string, to ReplayJobState) (j ReplayJob, taken bool, err error) {
	if to != JobRunning && to != JobPaused && to != JobCanceled {
		return j, false, &messages.FieldError{Field: "state", Value: string(to), Allowed: "running, paused or canceled"}
	}
	for try := 0; ; try++ {
		if j, err = c.ReplayJob(ctx, id); err != nil {
			return j, false, err
		}
		if j.State.Over() {
			return j, false, fmt.Errorf("replay job %s: %w: it is %s", id, messages.ErrConflict, j.State)
		}
		if taken = to == JobRunning && j.StaleAt(c.Now()); taken {
			j.Runner = messages.NewID()
		}
		j.State = to
		if j, err = c.putJob(ctx, j); err == nil || !errors.Is(err, messages.ErrConflict) || try == resultTries {
			return j, taken, err
		}
	}
}

// ReportReplayJob writes the runner's counts, and its end with over, and returns the job as it is now: its state is what others want of
// it. When another runner has taken it over it fails with [messages.ErrConflict].
func (c *Cluster) ReportReplayJob(ctx context.Context, mine ReplayJob, over bool) (ReplayJob, error) {
	for try := 0; ; try++ {
		j, err := c.ReplayJob(ctx, mine.ID)
		if err != nil {
			return mine, err
		}
		if j.Runner != mine.Runner {
			return j, fmt.Errorf("replay job %s: %w: somebody else runs it now", mine.ID, messages.ErrConflict)
		}
		j.Sent, j.Failed, j.Total = mine.Sent, mine.Failed, mine.Total
		if over && !j.State.Over() {
			j.State = JobDone
		}
		if j, err = c.putJob(ctx, j); err == nil || !errors.Is(err, messages.ErrConflict) || try == resultTries {
			return j, err
		}
	}
}
