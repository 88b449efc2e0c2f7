"""What a caller may not write. A line that ends in `# error` is one for basedpyright and `mypy
--strict`; no other is.
"""

from must_pass import builder, charge

from aiodurable import (
    Durable,
    NewRun,
    RetryPolicy,
    WorkflowExecutor,
    durable_run,
    find_failed_workflows,
    resume_workflow,
)


async def wrong_keys(durable: Durable) -> None:
    async with durable.run("t", builder) as run:
        await run.ainvoke({"topc": "tides"})  # error
        await run.ainvoke({"topic": 5})  # error
        result = await run.ainvoke({"topic": "tides"})
        print(result["txet"])  # error
        print((await run.answer("yes"))["txet"])  # error
    print((await WorkflowExecutor(builder).execute("t", {"topic": "tides"}))["txet"])  # error


async def wrong_context(durable: Durable) -> None:
    async with durable.run("t", builder, context={"nmae": "red"}):  # error
        pass


async def misspelt_options(durable: Durable) -> None:
    async with durable.run("t", builder, on_bussy="wait"):  # error
        pass
    async with durable.run("t", "report", on_busy="wiat"):  # error
        pass
    async with durable_run("t", builder, timeuot=5):  # error
        pass
    async with durable_run("t", "report", on_busy="wiat"):  # error
        pass
    await resume_workflow("t", past_gates=True)  # error
    await durable.threads.resume("t", durabilty="sync")  # error
    async with durable.run("t", builder) as run:
        await run.ainvoke({"topic": "tides"}, interupt_before=["write"])  # error
        await run.ainvoke({"topic": "tides"}, on_unfinished="restrat")  # error


async def wrong_statuses(durable: Durable) -> None:
    durable.threads.search(status="failde")  # error
    durable.threads.search(stauts="failed")  # error
    find_failed_workflows(status=["failed", "chrashed"])  # error


async def wrong_runs(durable: Durable) -> None:
    await durable.runs.create("t", builder, {"topc": "tides"})  # error
    await durable.runs.create("t", builder, {"topic": "tides"}, context={"nmae": "red"})  # error
    await durable.runs.create("t", builder, {"topic": "tides"}, prioriti=1)  # error
    await durable.runs.create("t", "report", {}, on_busy="wait")  # error
    await durable.runs.create("t", "report")  # error
    await durable.runs.create_many([NewRun(thread_id="t", graph="report")])  # error
    NewRun(thread_id="t", graph="report", input={}, quue="slow")  # error
    print((await durable.runs.wait("r", builder))["txet"])  # error
    await durable.runs.wait(["r"])  # error


async def wrong_run_filters(durable: Durable) -> None:
    await durable.runs.list(claim_state="redy")  # error
    await durable.runs.list(status="don")  # error
    await durable.runs.list(statuss="failed")  # error
    await durable.runs.cancel_many(qeue="slow")  # error


async def wrong_workers(durable: Durable) -> None:
    durable.work(concurency=5)  # error
    durable.work(retry_policy={"report": 3})  # error
    RetryPolicy(attempts=3)  # error
    RetryPolicy(non_retryable=[ValueError])  # error
    await durable.queues.scale("slow", max_runing=2)  # error


async def wrong_order(durable: Durable) -> None:
    async with durable.run(builder, "t"):  # error
        pass
    await charge(5, "order-1")  # error
