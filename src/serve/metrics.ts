// Prometheus metrics: Triton's names for what dashboards know already, and our own in seconds. No label has a client's word in
// it: adapters come and go by the thousand, so that none of them is a label.
import type { Counter, Gauge, Histogram, Registry } from "prom-client";
import { loadPackage } from "../data/package.ts";

/** What is looked at when metrics are asked for. */
export interface Observed {
  queue(): number;
  open(): number;
  workers(): number;
  resident(): { readonly count: number; readonly bytes: number };
  listed(): number;
}

export interface Metrics {
  observe(observed: Observed): void;
  /** An inference request has been answered, after waiting and running so many seconds. */
  answered(waited: number, ran: number): void;
  /** Any HTTP request has ended. `route` is the route's pattern. */
  responded(method: string, route: string, status: number, seconds: number): void;
  batch(rows: number, requests: number, seconds: number): void;
  inferred(isSuccess: boolean, seconds: number): void;
  loaded(seconds: number): void;
  loadFailed(): void;
  evicted(): void;
  workerEnded(): void;
  trained(outcome: "better" | "worse" | "failed"): void;
  /** The text that Prometheus reads, and its content type. */
  text(): Promise<{ readonly body: string; readonly type: string }>;
}

const seconds = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30];
const powersOfTwo = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/**
 * Metrics of a server.
 *
 * @param base the base's name, the label that Triton's metrics have
 * @throws LowrankError "config" when prom-client is not installed.
 */
export async function openMetrics(base: string): Promise<Metrics> {
  const prom = await loadPackage("prom-client", "lowrank serve", () => import("prom-client"));
  const registry = new prom.Registry();
  prom.collectDefaultMetrics({ register: registry });
  return new PromMetrics(new Instruments(prom, registry, base), registry, base);
}

type Prom = typeof import("prom-client");

class Instruments {
  readonly #prom: Prom;
  readonly #registry: Registry;
  readonly http: Histogram<"method" | "route" | "status">;
  readonly success: Counter<"model" | "version">;
  readonly failure: Counter<"model" | "version">;
  readonly inferences: Counter<"model" | "version">;
  readonly executions: Counter<"model" | "version">;
  readonly microseconds: Counter<"model" | "version">;
  readonly queueMicroseconds: Counter<"model" | "version">;
  readonly computeMicroseconds: Counter<"model" | "version">;
  readonly request: Histogram;
  readonly wait: Histogram;
  readonly run: Histogram;
  readonly rows: Histogram;
  readonly loads: Counter<"result">;
  readonly load: Histogram;
  readonly evictions: Counter;
  readonly restarts: Counter;
  readonly trainings: Counter<"outcome">;

  constructor(prom: Prom, registry: Registry, base: string) {
    this.#prom = prom;
    this.#registry = registry;
    const triton = (name: string, help: string): Counter<"model" | "version"> => {
      const counter = this.#counter(name, help, ["model", "version"]);
      counter.inc({ model: base, version: "1" }, 0);
      return counter;
    };
    this.http = this.#histogram("lowrank_http_request_duration_seconds", "HTTP requests by route", seconds, [
      "method",
      "route",
      "status",
    ]);
    this.success = triton("nv_inference_request_success", "Successful inference requests, adapters included");
    this.failure = triton("nv_inference_request_failure", "Failed inference requests, adapters included");
    this.inferences = triton("nv_inference_count", "Rows that were inferred");
    this.executions = triton("nv_inference_exec_count", "Runs of the model: batches");
    this.microseconds = triton("nv_inference_request_duration_us", "Time of inference requests, in microseconds");
    this.queueMicroseconds = triton(
      "nv_inference_queue_duration_us",
      "Time that inference requests waited, in microseconds",
    );
    this.computeMicroseconds = triton(
      "nv_inference_compute_infer_duration_us",
      "Time that the model ran, in microseconds",
    );
    this.request = this.#histogram(
      "lowrank_inference_duration_seconds",
      "Inference requests from arrival to answer",
      seconds,
    );
    this.wait = this.#histogram(
      "lowrank_queue_duration_seconds",
      "Time that inference requests waited for a batch",
      seconds,
    );
    this.run = this.#histogram("lowrank_run_duration_seconds", "Time that the model ran for a batch", seconds);
    this.rows = this.#histogram("lowrank_batch_rows", "Rows in a batch", powersOfTwo);
    this.loads = this.#counter("lowrank_adapter_loads_total", "Adapters that were loaded or refused", ["result"]);
    for (const result of ["loaded", "refused"]) this.loads.inc({ result }, 0);
    this.load = this.#histogram("lowrank_adapter_load_duration_seconds", "Time to load an adapter", seconds);
    this.evictions = this.#counter("lowrank_adapter_evictions_total", "Adapters let go to make room", []);
    this.restarts = this.#counter("lowrank_worker_restarts_total", "Workers that ended and were replaced", []);
    this.trainings = this.#counter("lowrank_trainings_total", "Trainings from feedback", ["outcome"]);
    for (const outcome of ["better", "worse", "failed"]) this.trainings.inc({ outcome }, 0);
  }

  /** Gauges that are read when they are asked for. */
  observe({ queue, open, workers, resident, listed }: Observed): void {
    this.#gauge("lowrank_queue_rows", "Rows that wait for a batch", queue);
    this.#gauge("lowrank_requests_in_progress", "Inference requests that are not answered yet", open);
    this.#gauge("lowrank_workers", "Workers that can run the model", workers);
    this.#gauge("lowrank_adapters_resident", "Adapters in memory", () => resident().count);
    this.#gauge("lowrank_adapters_resident_bytes", "Memory of the adapters, in each worker", () => resident().bytes);
    this.#gauge("lowrank_adapters_listed", "Adapters that can be asked for", listed);
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new this.#prom.Counter({ name, help, labelNames, registers: [this.#registry] });
  }

  #histogram<L extends string>(name: string, help: string, buckets: number[], labelNames: L[] = []): Histogram<L> {
    return new this.#prom.Histogram({ name, help, buckets, labelNames, registers: [this.#registry] });
  }

  #gauge(name: string, help: string, read: () => number): Gauge {
    return new this.#prom.Gauge({
      name,
      help,
      registers: [this.#registry],
      collect() {
        this.set(read());
      },
    });
  }
}

class PromMetrics implements Metrics {
  readonly #is: Instruments;
  readonly #registry: Registry;
  readonly #labels: { readonly model: string; readonly version: string };

  constructor(instruments: Instruments, registry: Registry, base: string) {
    this.#is = instruments;
    this.#registry = registry;
    this.#labels = { model: base, version: "1" };
  }

  observe(observed: Observed): void {
    this.#is.observe(observed);
  }

  answered(waited: number, ran: number): void {
    this.#is.wait.observe(waited);
    this.#is.queueMicroseconds.inc(this.#labels, Math.round(waited * 1e6));
    this.#is.computeMicroseconds.inc(this.#labels, Math.round(ran * 1e6));
  }

  responded(method: string, route: string, status: number, time: number): void {
    this.#is.http.observe({ method, route, status: String(status) }, time);
  }

  batch(rows: number, _requests: number, time: number): void {
    this.#is.rows.observe(rows);
    this.#is.run.observe(time);
    this.#is.executions.inc(this.#labels);
    this.#is.inferences.inc(this.#labels, rows);
  }

  inferred(isSuccess: boolean, time: number): void {
    (isSuccess ? this.#is.success : this.#is.failure).inc(this.#labels);
    this.#is.microseconds.inc(this.#labels, Math.round(time * 1e6));
    this.#is.request.observe(time);
  }

  loaded(time: number): void {
    this.#is.loads.inc({ result: "loaded" });
    this.#is.load.observe(time);
  }

  loadFailed(): void {
    this.#is.loads.inc({ result: "refused" });
  }

  evicted(): void {
    this.#is.evictions.inc();
  }

  workerEnded(): void {
    this.#is.restarts.inc();
  }

  trained(outcome: "better" | "worse" | "failed"): void {
    this.#is.trainings.inc({ outcome });
  }

  async text(): Promise<{ body: string; type: string }> {
    return { body: await this.#registry.metrics(), type: this.#registry.contentType };
  }
}
