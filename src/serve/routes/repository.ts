// Triton's model repository extension: which models there are, loading and unloading them.
import { assertName } from "../names.ts";
import { answers, indexRequestSchema, indexSchema, pathSchema, repositoryRequestSchema } from "../schemas.ts";
import { ServeError } from "../serve-error.ts";
import { baseVersion } from "../service.ts";
import { loadableStore, type RouteContext } from "./context.ts";

interface RepositoryBody {
  readonly parameters?: Readonly<Record<string, unknown>>;
}

export function repositoryRoutes(context: RouteContext): void {
  const { app, service } = context;
  const tags = ["repository"];
  app.post<{ Body: { ready?: boolean } | null }>(
    "/v2/repository/index",
    {
      schema: {
        tags,
        summary: "All models and their states",
        body: indexRequestSchema,
        response: answers(indexSchema, "The models."),
      },
    },
    async ({ body }) => {
      const base = {
        name: service.name,
        version: baseVersion,
        state: service.isReady ? "READY" : "UNAVAILABLE",
        reason: "",
      };
      const all = [base, ...(service.store?.index() ?? [])];
      return body?.ready === true ? all.filter(({ state }) => state === "READY") : all;
    },
  );
  const schema = (summary: string): object => ({
    tags,
    summary,
    params: pathSchema("name"),
    body: repositoryRequestSchema,
    response: answers(null, "Done; the body is empty.", "text/plain"),
  });
  app.post<{ Params: { name: string }; Body: RepositoryBody | null }>(
    "/v2/repository/models/:name/load",
    { schema: schema("Load an adapter of the folder, or its present content once more (needs --allow-loading)") },
    async ({ params: { name }, body }, reply) => {
      const store = loadableStore(context);
      assertName(name, "model");
      const unwanted = Object.keys(body?.parameters ?? {});
      if (unwanted.length > 0) {
        throw new ServeError(400, "parameters: expected none; configurations and files are not taken from requests");
      }
      if (name === service.name) throw new ServeError(400, "the base is loaded for as long as the server runs");
      await store.load(name);
      return reply.code(200).send();
    },
  );
  app.post<{ Params: { name: string } }>(
    "/v2/repository/models/:name/unload",
    { schema: schema("Unload an adapter (needs --allow-loading)") },
    async ({ params: { name } }, reply) => {
      const store = loadableStore(context);
      assertName(name, "model");
      if (name === service.name) throw new ServeError(400, "the base is loaded for as long as the server runs");
      store.unload(name);
      return reply.code(200).send();
    },
  );
}
