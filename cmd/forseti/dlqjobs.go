package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// jobs poll and report this often.
const jobBeat = time.Second

// job is the runner's side of a replay job.
type job struct {
	s    *session
	now  cluster.ReplayJob
	next time.Time // when to look again
}

// open begins a job for letters that a condition chose: one that another terminal can watch, pause, resume and cancel.
func (f *replayFlags) open(ctx context.Context, s *session, total int, last uint64) (*job, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	started, err := s.StartReplayJob(ctx, cluster.ReplayJob{
		By: f.by, Filter: f.filter, Pipeline: f.pipeline, Reason: f.reason, Rate: f.rate, Force: f.force, Last: last, Total: total,
	})
	if err != nil {
		return nil, err
	}
	s.note("job %s: forseti dlq jobs pause %s holds it", started.ID, started.ID)
	return &job{s: s, now: started, next: time.Now().Add(jobBeat)}, nil
}

var errJobCanceled = errors.New("the job was canceled")

// proceed tells how far it is, at most once in a beat, and holds while the job is paused.
func (j *job) proceed(ctx context.Context) error {
	if j == nil || time.Now().Before(j.next) {
		return nil
	}
	for held := false; ; held = true {
		one, cancel := j.s.bounded(ctx)
		now, err := j.s.ReportReplayJob(one, j.now, false)
		cancel()
		if err != nil {
			return err
		}
		j.now, j.next = now, time.Now().Add(jobBeat)
		switch {
		case now.State.Over():
			return fmt.Errorf("%w: %w", messages.ErrRejected, errJobCanceled)
		case now.State != cluster.JobPaused:
			return nil
		case !held:
			j.s.note("paused: forseti dlq jobs resume %s", now.ID)
		}
		beat := time.NewTimer(jobBeat)
		select {
		case <-beat.C:
		case <-ctx.Done():
			beat.Stop()
			return context.Cause(ctx)
		}
	}
}

func (j *job) count(sent bool) {
	switch {
	case j == nil:
	case sent:
		j.now.Sent++
	default:
		j.now.Failed++
	}
}

// end says that it is over. An interrupted one stays as it is: whoever resumes it goes on.
func (j *job) end(ctx context.Context) error {
	if j == nil || ctx.Err() != nil {
		return nil
	}
	ctx, cancel := j.s.bounded(ctx)
	defer cancel()
	_, err := j.s.ReportReplayJob(ctx, j.now, true)
	return err
}

func newJobsCommand(client *clientFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "jobs", Short: "List replays of many letters; pause, resume and cancel them", Args: cobra.NoArgs,
		Long: `List replays of many letters, the newest first. Every forseti dlq replay with --all or --filter is one. A job whose
terminal has gone is stale after a quarter of a minute; resume then goes on with it here: letters that were sent are not sent again.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				jobs, err := s.ReplayJobs(ctx)
				if err != nil {
					return err
				}
				return s.jobs(jobs)
			})
		},
	}
	cmd.AddCommand(newJobOrderCommand(client, "pause", "Hold a replay", cluster.JobPaused), newJobOrderCommand(client, "cancel", "End a replay; what was not sent stays pending", cluster.JobCanceled),
		newJobOrderCommand(client, "resume", "Let a replay go on, here if its terminal has gone", cluster.JobRunning))
	return cmd
}

func newJobOrderCommand(client *clientFlags, use, short string, to cluster.ReplayJobState) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				one, cancel := s.bounded(ctx)
				j, taken, err := s.OrderReplayJob(one, args[0], to)
				cancel()
				if err != nil {
					return tryTo(err, "forseti dlq jobs")
				}
				if !taken {
					return s.jobs([]cluster.ReplayJob{j})
				}
				s.note("its terminal has gone: it goes on here")
				f := replayFlags{by: j.By, filter: j.Filter, pipeline: j.Pipeline, reason: j.Reason, rate: j.Rate, force: j.Force, all: j.Filter == ""}
				if f.chosen, err = parseFilter(f.filter); err != nil {
					return err
				}
				return f.resume(ctx, s, j)
			})
		},
	}
}

// resume goes on with what is still pending of a job.
func (f *replayFlags) resume(ctx context.Context, s *session, j cluster.ReplayJob) error {
	ids, _, err := s.pendingUntil(ctx, cluster.DeadLetterFilter{Pipeline: f.pipeline, Reason: f.reason}, f.chosen, 0, j.Last)
	if err != nil {
		return err
	}
	j.Failed, j.Total = 0, j.Sent+len(ids) // those that failed are tried again
	f.job = &job{s: s, now: j}
	done, errs := f.send(ctx, s, ids, false)
	return errors.Join(f.print(s, done), worst(errs), f.job.end(ctx))
}

// jobView is a job as -o json shows it.
type jobView struct {
	cluster.ReplayJob
	Stale bool `json:"stale,omitempty"` // whoever ran it is gone
}

func (s *session) jobs(jobs []cluster.ReplayJob) error {
	now := s.Now()
	views, rows := make([]jobView, 0, len(jobs)), make([][]string, 0, len(jobs))
	for _, j := range jobs {
		v := jobView{j, j.StaleAt(now)}
		views = append(views, v)
		state := string(j.State)
		if v.Stale {
			state += ", stale"
		}
		rows = append(rows, []string{j.ID, state, fmt.Sprintf("%d/%d", j.Sent, j.Total), fmt.Sprint(j.Failed), cell(j.By, 32), stamp(j.Started), cell(j.Filter, 60)})
	}
	if s.json {
		return s.document(views)
	}
	if len(rows) == 0 {
		s.note("no replay jobs")
		return nil
	}
	return s.table([]string{"ID", "STATE", "SENT", "FAILED", "BY", "STARTED", "FILTER"}, rows)
}
