import io.debezium.embedded.async.ConvertingAsyncEngineBuilderFactory;
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import io.debezium.engine.format.KeyValueHeaderChangeEventFormat;
import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;

/**
 * Debezium, which writes the changes of a slot to a file, an event a line, until it has so many.
 *
 * Arguments: a file of Debezium's own properties, where to write, how many events. The file is synced, and then
 * the milliseconds from the first batch to there are said.
 */
public final class Follow {
    private static long first = 0;
    private static long events = 0;

    public static void main(String[] args) throws Exception {
        var properties = new Properties();
        try (var file = Files.newInputStream(Path.of(args[0]))) {
            properties.load(file);
        }
        long wanted = Long.parseLong(args[2]);
        var done = new CountDownLatch(1);
        var file = new FileOutputStream(args[1]);
        var out = new BufferedOutputStream(file, 1 << 20);
        var format = KeyValueHeaderChangeEventFormat.of(Json.class, Json.class, Json.class);
        var engine = DebeziumEngine.create(format, ConvertingAsyncEngineBuilderFactory.class.getName())
            .using(properties)
            .using((success, message, error) -> {
                System.err.println("debezium ended: " + message + (error == null ? "" : " " + error));
                done.countDown();
            })
            .notifying((List<ChangeEvent<String, String>> batch, DebeziumEngine.RecordCommitter<ChangeEvent<String, String>> committer) -> {
                take(batch, committer, out);
                if (events >= wanted) {
                    done.countDown();
                }
            })
            .build();
        var thread = new Thread(engine);
        thread.setDaemon(true);
        thread.start();
        done.await();
        if (events < wanted) {
            System.err.println("it has " + events + " of " + wanted + " events");
            System.exit(1);
        }
        synchronized (Follow.class) {
            out.flush();
            file.getFD().sync();
        }
        System.out.println((System.nanoTime() - first) / 1_000_000);
        System.out.flush();
        // What it would do at its end is no part of this.
        Runtime.getRuntime().halt(0);
    }

    private static synchronized void take(
        List<ChangeEvent<String, String>> batch,
        DebeziumEngine.RecordCommitter<ChangeEvent<String, String>> committer,
        OutputStream out
    ) throws InterruptedException {
        if (first == 0) {
            first = System.nanoTime();
        }
        try {
            for (var event : batch) {
                out.write(event.value().getBytes(StandardCharsets.UTF_8));
                out.write('\n');
                committer.markProcessed(event);
                events++;
            }
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
        committer.markBatchFinished();
    }
}
