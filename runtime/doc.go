// Package runtime is the front door of Forseti: a node that protects calls and tasks with pipelines of policies.
//
//	rt, err := runtime.Start(ctx, runtime.Config{})          one process; WithCluster joins others over NATS
//	p, err := rt.Pipeline("charge", runtime.Spec{...})       guards, layers outermost first, hooks, sinks
//	fmt.Println(p.Explain())                                 what that is, and what is wrong with it
//	v, err := runtime.Do(ctx, p, fn)                         on this goroutine: the value or the error
//	res := runtime.Try(ctx, p, fn)                           the same, told in full; never an error, never a panic
//	fut := runtime.Go(ctx, p, fn)                            on a worker, behind the pipeline's bounded intake
//	permit, err := p.Acquire(ctx)                            for what is no function: permit.Done(err) ends it
//	err = runtime.Handle(rt, "charge", p, fn)                for tasks that arrive on forseti.v1.task.charge
//	fn, err := runtime.Protect(p, pay, runtime.Capture{})    arguments of calls that failed are kept, and come back
//	err = rt.ErrorBudget(policy.ErrorBudget{...})            counted by, and asked by, pipelines that name it as a guard
//	err = rt.Kill(ctx, messages.KillState{...})              stops, bypasses or only watches, on every node
//	sub, err := rt.Watch(64, messages.EventFilter{})         what happens here, from now or from a time in the past
//	err = rt.ServeUntilSignal(ctx, 30*time.Second)           SIGTERM drains; a second one ends the drain
//	pid := p.PID()                                           for actors: answers messages.Execute
//
// A policy.Keyed among the layers keeps calls apart by their context's Target, or by another key: p.With(c) says whose a
// call is, p.Keys and p.KeyState show the keys, p.Order("keyed_breaker/a.example.com", order) orders one.
//
// What a call goes through, in this order: guards; the layers, outer to inner; the function; the layers again,
// inner to outer; hooks and failure sinks, which never hold it up.
//
// What becomes of a task: it is fetched when the pipeline has room for it, runs as a call does, and is over when
// its dead letter, if it has one, and its result are stored; only then is it acknowledged. A task that a breaker
// or the kill switch refuses has not failed: it goes back to the stream and waits there.
//
// Delivery is at least once from the stream's acknowledgement to the settlement, so handlers must be idempotent.
//
// What holds for users:
//
//  1. The context comes first, and ends the work when it ends. A caller's own cancellation counts for nothing.
//  2. Errors are typed; compare by errors.Is with the sentinels of package messages.
//  3. Functions run on the caller's goroutine or on a worker. A function that ignores its context keeps its permits
//     until it returns.
//  4. Call Shutdown once: it returns what did not end in time, and nil when nothing is left. ShutdownReport adds up: calls
//     in flight and admitted meanwhile were drained or aborted.
//  5. Everything that was built is registered: HealthCheckAll asks it, Metrics counts it, and Register adds parts of your own.
package runtime
